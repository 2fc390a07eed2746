// Work without a request over HTTP.

import { Refused, errorOf, transaction } from 'keysmith';
import { add, photos, pool } from './work.mjs';

const headers = { 'X-API-Key': process.env.KEY };
const attempt = async (job, work) => {
  try {
    console.log(await transaction(pool, job, work));
  } catch (error) {
    if (error instanceof Refused) console.log('Refused', error.status, error.code, error.headers['WWW-Authenticate']?.split(' ')[0]);
    else console.log(error.code ?? error.message, ...(errorOf(error) ? [errorOf(error).status] : []));
  }
};

await attempt({ headers, method: 'GET', path: '/photos', spend: 5 }, async caller => {
  await add(caller, 'by a job');
  const { photos: { length } } = await photos(caller);
  await caller.settle({ spend: 7 });
  return `${caller.tenant} ${length}`;
});
await attempt({ headers: { 'X-API-Key': 'ks_live_nope' }, method: 'GET', path: '/photos' }, () => {});
await attempt({ headers, method: 'GET', path: '/other/of/admins' }, () => {});
await attempt({ headers, method: 'GET', path: '/photos' }, async caller => {
  await add(caller, 'lost');
  throw new Error('a bug');
});
await attempt({ headers, method: 'GET', path: '/photos' }, caller => caller.query("SELECT raise('KS403')"));
await attempt({ headers, method: 'GET', path: '/photos' }, caller => add(caller, 'never'));
await attempt({ headers, method: 'GET', path: '/photos' }, async caller => `${(await photos(caller)).photos.length} row`);
await pool.end();

# Photos of each tenant: Rack, and Sequel. Debian's ruby, ruby-sequel, ruby-pg, ruby-rack.

require 'json'
require 'rack'
require 'sequel'

# The role and the server to connect to: libpq's variables, such as PGHOST.
DB = Sequel.connect(adapter: :postgres, max_connections: 2)

# keysmith: from here
class Keysmith
  AUTHENTICATE = <<~SQL
    SELECT ok, status, code, message, ceil(extract(epoch FROM retry_after))::int AS retry_after
    FROM keysmith.authenticate($1::jsonb, $2, $3, ip => keysmith.client_ip($1::jsonb, $4, $5))
  SQL

  def initialize(app)
    @app = app
  end

  # Opens the request's transaction, and signs its key in: in this thread the application then
  # sees only its tenant's rows.
  def call(env)
    headers = env.filter_map { |name, value| [name[5..].tr('_', '-'), value] if name.start_with?('HTTP_') }.to_h
    DB.transaction do |connection|
      # Sequel would write the key into the statement's text; exec_params binds it.
      verdict = connection.exec_params(AUTHENTICATE, [
        headers.to_json, env['REQUEST_METHOD'], Rack::Request.new(env).fullpath,
        env['REMOTE_ADDR'], ENV.fetch('TRUSTED_PROXIES', '{}')
      ]).first
      next refusal(verdict) unless verdict['ok'] == 't'

      @app.call(env)
    end
  end

  def refusal(verdict)
    headers = { 'Content-Type' => 'application/json' }
    headers['WWW-Authenticate'] = 'Bearer' if verdict['status'] == '401'
    headers['Retry-After'] = verdict['retry_after'] if verdict['retry_after']
    [verdict['status'].to_i, headers, [verdict.slice('code', 'message').to_json]]
  end
end
# keysmith: to here

def answer(status, body)
  [status, { 'Content-Type' => 'application/json' }, [body.to_json]]
end

PHOTOS = lambda do |env|
  request = Rack::Request.new(env)
  case [request.request_method, request.path_info]
  when ['GET', '/photos']
    answer(200, photos: DB[:photo].order(:name).select_map(:name))
  when ['POST', '/photos']
    name = JSON.parse(request.body.read).fetch('name')
    DB[:photo].returning(:name).insert(name: name)
    answer(201, name: name)
  when ['GET', '/internal']
    answer(200, internal: true)
  else
    answer(404, code: 'not_found')
  end
end

Rack::Handler::WEBrick.run(Keysmith.new(PHOTOS), Host: '127.0.0.1', Port: Integer(ENV.fetch('PORT')),
                                                 AccessLog: [], Logger: WEBrick::Log.new($stderr, 1))

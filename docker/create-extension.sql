-- The image runs this once, in the database of POSTGRES_DB, when it makes a new cluster.
CREATE EXTENSION keysmith;

-- What the regress files and isolation specs find: the extension, with its
-- functions callable unqualified.
CREATE EXTENSION quota CASCADE;
ALTER DATABASE :"DBNAME" SET search_path = quota, public;

-- Expected output does not depend on the server's settings.
ALTER DATABASE :"DBNAME" SET lc_messages = 'C';
ALTER DATABASE :"DBNAME" SET bytea_output = 'hex';

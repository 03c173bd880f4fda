-- The same with the PL/pgSQL reference in front: an unqualified call reaches
-- it where it has the function, and the extension where it has not.
\ir engine.sql
\ir ../reference/reference.sql
ALTER DATABASE :"DBNAME" SET search_path = quota_reference, quota, public;

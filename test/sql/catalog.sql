-- What is declared: the C code's idea of the tables, comments, rights,
-- volatility, and what keeps the hot tables cheap.
\set VERBOSITY sqlstate

-- Column numbers in src/ are those of the tables ---------------------------------

\set source `cat src/catalog.h src/outcome.c`
CREATE TEMP TABLE numbers AS
	SELECT e.nr AS enum, l[1] AS name,
			-- an enumerator without a value is one more than the one before
			CASE WHEN l[2] ~ '^[0-9]+$' THEN l[2]::int WHEN l[2] IS NULL THEN row_number() OVER (PARTITION BY e.nr ORDER BY o) END AS number,
			l[2] AS value
		FROM regexp_matches(:'source', 'enum\n\{\n(.*?)\n\};', 'g') WITH ORDINALITY AS e (body, nr),
			regexp_matches(e.body[1], '((?:Anum|Natts)_\w+)(?: = (\w+))?', 'g') WITH ORDINALITY AS n (l, o);
UPDATE numbers n SET number = a.number FROM numbers a WHERE a.name = n.value AND n.number IS NULL;
CREATE TEMP TABLE columns AS
	SELECT c.relname, a.attname, a.attnum FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		WHERE c.relnamespace = 'quota'::regnamespace AND c.relkind IN ('r', 'c') AND a.attnum > 0;
SELECT count(DISTINCT enum) AS enums, count(*) FILTER (WHERE name LIKE 'Anum%') > 80 AS many, count(*) FILTER (WHERE name LIKE 'Natts%') AS natts FROM numbers;
-- every number names a column of that number ...
SELECT n.name, n.number, c.attnum FROM numbers n LEFT JOIN columns c ON n.name = 'Anum_' || c.relname || '_' || c.attname
	WHERE n.name LIKE 'Anum%' AND n.number IS DISTINCT FROM c.attnum;
-- ... and every table has as many columns as it is said to have
SELECT n.name, n.number, c.natts FROM numbers n
	FULL JOIN (SELECT relname, count(*) AS natts FROM columns GROUP BY relname) AS c ON n.name = 'Natts_' || c.relname
	WHERE coalesce(n.name, 'Natts') LIKE 'Natts%' AND n.number IS DISTINCT FROM c.natts
		-- (the C code need not know a table)
		AND (n.name IS NOT NULL OR EXISTS (SELECT FROM numbers m WHERE m.name LIKE 'Anum_' || c.relname || '_%'));

-- Everything says what it is for ---------------------------------------------------

CREATE TEMP VIEW members AS
	SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS object
		FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
		WHERE e.extname = 'quota' AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e';
SELECT classid::regclass AS class, count(*) > 0 AS found FROM members GROUP BY 1 ORDER BY 1::text;
SELECT object FROM members
	-- the row type of a table is described by the table
	-- and array types, which are members of the extension in newer servers, have none
	WHERE object NOT LIKE 'type %[]' AND coalesce(obj_description(objid, classid::regclass::text),
			CASE classid WHEN 'pg_type'::regclass THEN (SELECT obj_description(typrelid, 'pg_class') FROM pg_type WHERE oid = objid) END) IS NULL
	ORDER BY object;
SELECT indexrelid::regclass AS index FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
	WHERE c.relnamespace = 'quota'::regnamespace AND NOT i.indisprimary AND c.relkind = 'r' AND obj_description(indexrelid, 'pg_class') IS NULL;
SELECT c.relname, c.attname FROM columns c WHERE col_description(('quota.' || c.relname)::regclass, c.attnum) IS NULL ORDER BY c.relname, c.attnum;
SELECT t.tgrelid::regclass AS table, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
	WHERE c.relnamespace = 'quota'::regnamespace AND NOT t.tgisinternal AND obj_description(t.oid, 'pg_trigger') IS NULL ORDER BY 1::text, 2;
-- nothing in the schema belongs to somebody else, and nothing of the extension is elsewhere
SELECT pg_describe_object('pg_class'::regclass, oid, 0) FROM pg_class
	WHERE relnamespace = 'quota'::regnamespace AND relkind IN ('r', 'v', 'S', 'c') AND oid NOT IN (SELECT objid FROM members)
		AND (relkind <> 'c' OR reltype NOT IN (SELECT objid FROM members));
SELECT object FROM members WHERE classid = 'pg_proc'::regclass AND (SELECT pronamespace FROM pg_proc WHERE oid = objid) <> 'quota'::regnamespace;

-- Functions ---------------------------------------------------------------------------

CREATE TEMP VIEW functions AS SELECT p.* FROM pg_proc p JOIN members m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid;
SELECT p.proname AS function, l.lanname AS language,
		CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END AS volatility,
		CASE p.proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END AS parallel,
		p.proisstrict AS strict, p.prosecdef AS as_owner, p.proconfig[1] AS setting
	FROM functions p JOIN pg_language l ON l.oid = p.prolang ORDER BY p.proname, p.pronargs;
-- no right for everybody, on anything
SELECT p.oid::regprocedure FROM functions p WHERE p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = 0);
SELECT c.oid::regclass FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace = 'quota'::regnamespace AND a.grantee = 0;
SELECT n.nspname FROM pg_namespace n WHERE n.nspname = 'quota' AND EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = 0);
-- what runs as the owner, or is written in a language that looks names up, looks them up in fixed places
SELECT p.oid::regprocedure FROM functions p JOIN pg_language l ON l.oid = p.prolang
	WHERE l.lanname <> 'c' AND p.prosqlbody IS NULL AND NOT (p.proconfig[1] LIKE 'search_path=%pg_catalog, pg_temp');
SELECT p.oid::regprocedure FROM functions p WHERE p.prosecdef AND p.proconfig IS NULL;

-- Dump takes every row of every table, and the extension brings none of its own
SELECT c.relname FROM pg_class c, pg_extension e
	WHERE e.extname = 'quota' AND c.relnamespace = 'quota'::regnamespace AND c.relkind IN ('r', 'S') AND c.oid <> ALL (e.extconfig);
SELECT DISTINCT c FROM pg_extension e, unnest(e.extcondition) AS c WHERE e.extname = 'quota';
SELECT extversion IS NOT NULL AS versioned, extrelocatable FROM pg_extension WHERE extname = 'quota';

-- Hot tables -----------------------------------------------------------------------------

-- no index holds a counter, so an update that moves one is heap-only
SELECT i.indexrelid::regclass AS index, string_agg(a.attname, ', ' ORDER BY k.nr) AS columns
	FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k (attnum, nr), pg_attribute a
	WHERE i.indrelid = 'quota.usage_tracking'::regclass AND a.attrelid = i.indrelid AND a.attnum = k.attnum GROUP BY 1 ORDER BY 1::text;
SELECT count(*) AS expressions FROM pg_index WHERE indrelid = 'quota.usage_tracking'::regclass AND (indexprs IS NOT NULL OR indpred IS NOT NULL);
SELECT option_value::int BETWEEN 50 AND 70 AS leaves_room FROM pg_class c, pg_options_to_table(c.reloptions)
	WHERE c.oid = 'quota.usage_tracking'::regclass AND option_name = 'fillfactor';
SELECT conrelid::regclass, conname FROM pg_constraint
	WHERE conrelid IN ('quota.usage_tracking'::regclass, 'quota.usage_events'::regclass, 'quota.quota_audit_log'::regclass) AND contype NOT IN ('p', 'n');
-- names are compared byte by byte
SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	WHERE c.relnamespace = 'quota'::regnamespace AND c.relkind = 'r' AND a.attname IN ('metric', 'alias', 'plan', 'period', 'rate_periods')
		AND a.attcollation <> 'pg_catalog."C"'::regcollation;
-- and they are heap-only, by the server's own count
INSERT INTO metrics (metric) VALUES ('catalog_calls');
INSERT INTO plans (plan) VALUES ('catalog_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('catalog_plan', 'catalog_calls', 'lifetime', 100);
INSERT INTO subscriptions (user_id, plan) VALUES (md5('catalog ann')::uuid, 'catalog_plan');
SELECT allowed FROM check_and_consume_quota(md5('catalog ann')::uuid, 'catalog_calls');
BEGIN;
SELECT count(*) FROM (SELECT check_and_consume_quota(md5('catalog ann')::uuid, 'catalog_calls') FROM generate_series(1, 10) OFFSET 0) AS s;
-- (calls before this transaction may be in the count still)
SELECT n_tup_upd >= 10 AS updated, n_tup_hot_upd = n_tup_upd AS heap_only FROM pg_stat_xact_user_tables WHERE relid = 'quota.usage_tracking'::regclass;
COMMIT;

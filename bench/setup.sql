-- A database to measure in.  Variables: subjects, and denied = subjects that
-- have an account without room as well.
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;
SET synchronous_commit = off;

CREATE EXTENSION quota CASCADE;
\ir ../test/reference/reference.sql

INSERT INTO quota.metrics (metric) VALUES ('calls'), ('exhausted');
INSERT INTO quota.plans (plan) VALUES ('bench');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount) VALUES
	('bench', 'calls', 'month', 1000000000),
	('bench', 'exhausted', 'month', 1);

-- Subject i is md5(i).  The accounts are open before anything is measured.
INSERT INTO quota.subscriptions (user_id, plan)
SELECT md5(i::text)::uuid, 'bench'
  FROM generate_series(1, :subjects) AS i;

INSERT INTO quota.usage_tracking (user_id, metric, period, period_start, period_end, used)
SELECT md5(i::text)::uuid, m.metric, 'month', b.period_start, b.period_end, m.used
  FROM (VALUES ('calls', 0, :subjects), ('exhausted', 1, :denied)) AS m (metric, used, n)
  CROSS JOIN LATERAL generate_series(1, m.n) AS i
  CROSS JOIN quota.period_bounds('month', NULL, 'UTC', quota.clock()) AS b;

-- pgbench cannot make a uuid.  A row of 20 random subjects, read before 20
-- calls, lets it pass each as a parameter, as an application does.
CREATE SCHEMA bench;
SELECT format('CREATE TABLE bench.draws AS SELECT n, %s FROM generate_series(1, 10000) AS n',
			  string_agg(format('md5((1 + floor(random() * %s))::integer::text)::uuid AS u%s', :subjects, i), ', '))
  FROM generate_series(1, 20) AS i
\gexec
ALTER TABLE bench.draws ADD PRIMARY KEY (n);
VACUUM (ANALYZE);

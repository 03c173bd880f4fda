-- What bench/ledger needs besides bench/setup.sql: more metrics, chains of subjects,
-- and subjects for batches.
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;
SET synchronous_commit = off;

INSERT INTO quota.metrics (metric) VALUES ('exports'), ('tokens'), ('chained');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount)
SELECT 'bench', metric, 'month', 1000000000 FROM unnest('{exports,tokens,chained}'::text[]) AS metric;

-- Subject i has a team and an organisation of its own, which limit the metric "chained"
-- only: what three levels cost, without anybody's waiting for a common parent.
INSERT INTO quota.plans (plan) VALUES ('parent');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount) VALUES ('parent', 'chained', 'month', 1000000000);
INSERT INTO quota.subscriptions (user_id, plan, parent)
SELECT md5('organisation ' || i)::uuid, 'parent', NULL FROM generate_series(1, 10000) AS i;
INSERT INTO quota.subscriptions (user_id, plan, parent)
SELECT md5('team ' || i)::uuid, 'parent', md5('organisation ' || i)::uuid FROM generate_series(1, 10000) AS i;
INSERT INTO quota.subscriptions (user_id, plan, parent)
SELECT md5('member ' || i)::uuid, 'bench', md5('team ' || i)::uuid FROM generate_series(1, 10000) AS i;

INSERT INTO quota.usage_tracking (user_id, metric, period, period_start, period_end)
SELECT md5(s.prefix || i)::uuid, s.metric, 'month', b.period_start, b.period_end
  FROM (VALUES ('', 'exports'), ('', 'tokens'), ('', 'chained'),
		('organisation ', 'chained'), ('team ', 'chained'), ('member ', 'chained')) AS s (prefix, metric)
  CROSS JOIN generate_series(1, 10000) AS i
  CROSS JOIN quota.period_bounds('month', NULL, 'UTC', quota.clock()) AS b;

-- 20 random members before 20 calls, as bench.draws has 20 random subjects
CREATE TABLE bench.members AS TABLE bench.draws;
SELECT format('UPDATE bench.members SET %s',
			  string_agg(format('u%s = md5(''member '' || (1 + floor(random() * 10000))::integer)::uuid', i), ', '))
  FROM generate_series(1, 20) AS i
\gexec
ALTER TABLE bench.members ADD PRIMARY KEY (n);

-- 100 different subjects for a batch, those of one client in one sixteenth of all, so
-- that neither the batch nor the statement that it is compared with waits for another.
CREATE TABLE bench.batches AS
SELECT client, n,
	   ARRAY(SELECT md5((16 * k + client + 1)::text)::uuid
			   FROM generate_series(0, 624) AS k
			  WHERE n + client >= 0	-- another draw for each row
			  ORDER BY random() LIMIT 100) AS users
  FROM generate_series(0, 15) AS client, generate_series(1, 100) AS n;
ALTER TABLE bench.batches ADD PRIMARY KEY (client, n);
VACUUM (ANALYZE);

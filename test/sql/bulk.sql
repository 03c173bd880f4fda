-- Acts on the subjects that a query returns, and their dry runs.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES ('bulk_calls', 'counter'), ('bulk_other', 'counter'), ('bulk_seats', 'gauge');
INSERT INTO plans (plan) VALUES ('bulk_small'), ('bulk_big');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('bulk_small', 'bulk_calls', 'month', 100), ('bulk_small', 'bulk_other', 'day', 10), ('bulk_small', 'bulk_seats', 'lifetime', 3),
	('bulk_big', 'bulk_calls', 'month', 1000);
CREATE TABLE public.bulk_team (name text, user_id uuid);
INSERT INTO public.bulk_team SELECT n, md5('bulk ' || n)::uuid FROM unnest('{ann,ben,cat,dan}'::text[]) AS n;
SELECT count(assign_plan(user_id, 'bulk_small')) FROM bulk_team WHERE name <> 'dan';
SELECT name, allowed FROM bulk_team, check_and_consume_quota(user_id, 'bulk_calls', 10.5 * length(name) / position(name IN 'ann ben cat')) WHERE name IN ('ann', 'cat') ORDER BY 1;
SELECT allowed FROM bulk_team, check_and_consume_quota(user_id, 'bulk_other', 2) WHERE name = 'cat';

CREATE TEMP VIEW written AS
	SELECT 'accounts' AS what, t::text AS stored FROM usage_tracking t UNION ALL SELECT 'history', t::text FROM usage_history t
	UNION ALL SELECT 'events', t::text FROM usage_events t UNION ALL SELECT 'log', t::text FROM quota_audit_log t
	UNION ALL SELECT 'bonuses', t::text FROM user_bonuses t UNION ALL SELECT 'overrides', t::text FROM limit_overrides t
	UNION ALL SELECT 'subscriptions', t::text FROM subscriptions t UNION ALL SELECT 'changes', t::text FROM plan_change_log t;
CREATE TEMP TABLE before AS TABLE written;
\set difference 'SELECT count(*) FROM ((TABLE written EXCEPT ALL TABLE before) UNION ALL (TABLE before EXCEPT ALL TABLE written)) AS d;'

-- A dry run is the default, tells what would change, and changes nothing ----------------------

SELECT name, metric, old_value, new_value, changed FROM bulk_adjust_usage('SELECT user_id FROM bulk_team WHERE name <> ''dan''', 'bulk_calls', 5, 'an outage')
	JOIN bulk_team USING (user_id) ORDER BY name;
SELECT name, metric, old_value, new_value, changed FROM bulk_reset_quota('SELECT user_id FROM bulk_team;', NULL, 'an outage') JOIN bulk_team USING (user_id) ORDER BY name, metric;
SELECT name, metric, old_value, new_value, changed FROM bulk_reset_quota('SELECT user_id FROM bulk_team -- all', 'bulk_calls', 'an outage') JOIN bulk_team USING (user_id) ORDER BY name, metric;
SELECT name, plan, old_value, new_value, changed FROM bulk_assign_plan('TABLE subscribers', 'bulk_big', p_reason => 'a gift') JOIN bulk_team USING (user_id) ORDER BY name;
CREATE TEMP VIEW subscribers AS SELECT user_id FROM bulk_team;
SELECT name, plan, old_value, new_value, changed FROM bulk_assign_plan('TABLE subscribers', 'bulk_big', p_reason => 'a gift') JOIN bulk_team USING (user_id) ORDER BY name;
SELECT name, plan, old_value, new_value, changed FROM bulk_assign_plan('TABLE subscribers', 'bulk_small', 'at_period_end') JOIN bulk_team USING (user_id) ORDER BY name;
SELECT name, metric, old_value, new_value, changed FROM bulk_grant_bonus('VALUES (md5(''bulk ann'')::uuid), (md5(''bulk ann'')::uuid), (md5(''bulk dan'')::uuid)', 'bulk_calls', 7.5, '2026-04-01 00:00+00', 'sorry')
	JOIN bulk_team USING (user_id) ORDER BY name;
:difference

-- The real thing: the same rows, and an audit row for each subject --------------------------------

SELECT name, metric, old_value, new_value, changed FROM bulk_adjust_usage('SELECT user_id::text FROM bulk_team WHERE name <> ''dan''', 'bulk_calls', 5, 'an outage', false)
	JOIN bulk_team USING (user_id) ORDER BY name;
SELECT name, metric, old_value, new_value, changed FROM bulk_grant_bonus('VALUES (md5(''bulk ann'')::uuid), (md5(''bulk ann'')::uuid), (md5(''bulk dan'')::uuid)', 'bulk_calls', 7.5, '2026-04-01 00:00+00', 'sorry', p_dry_run => false)
	JOIN bulk_team USING (user_id) ORDER BY name;
SELECT name, metric, old_value, new_value, changed FROM bulk_reset_quota('SELECT user_id FROM bulk_team', NULL, 'an outage', false) JOIN bulk_team USING (user_id) ORDER BY name, metric;
SELECT name, plan, old_value, new_value, changed FROM bulk_assign_plan('TABLE subscribers', 'bulk_big', 'prorate', 'a gift', false) JOIN bulk_team USING (user_id) ORDER BY name;
SELECT name, plan, old_value, new_value, changed FROM bulk_assign_plan('TABLE subscribers', 'bulk_small', 'at_period_end', NULL, false) JOIN bulk_team USING (user_id) ORDER BY name;
SELECT name, plan, pending_plan, pending_at, switches FROM subscriptions JOIN bulk_team USING (user_id) ORDER BY name;
SELECT name, action, a.metric, a.reason, a.detail -> 'old' ->> 'used' AS old, a.detail -> 'new' ->> 'used' AS new FROM quota_audit_log a JOIN bulk_team USING (user_id)
	WHERE action IN ('adjust_usage', 'reset_user_quota') OR a.reason IN ('sorry', 'a gift') ORDER BY action, name, a.metric;
SELECT count(*) FROM bulk_team, verify_ledger(user_id);
-- nobody is nobody
SELECT * FROM bulk_reset_quota('SELECT user_id FROM bulk_team WHERE false', NULL, 'none', false);

-- All or none: one subject that cannot be changed is told, and stops all ---------------------------

SELECT name, old_value, new_value FROM bulk_adjust_usage('SELECT md5(''bulk cat'')::uuid', 'bulk_calls', 3, 'one has some', false) JOIN bulk_team USING (user_id);
DROP TABLE before;
CREATE TEMP TABLE before AS TABLE written;
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT count(*) FROM bulk_adjust_usage('TABLE subscribers', 'bulk_calls', -2, 'too much for others', false);
SELECT count(*) FROM bulk_adjust_usage('TABLE subscribers', 'bulk_calls', -2, 'too much for others');
SELECT count(*) FROM bulk_reset_quota('SELECT user_id FROM nowhere', NULL, 'x');
\set VERBOSITY sqlstate

-- Queries that are none ------------------------------------------------------------------------------

SELECT bulk_reset_quota(NULL, NULL, 'x');
SELECT bulk_reset_quota('', NULL, 'x');
SELECT bulk_reset_quota(' ; ', NULL, 'x');
SELECT bulk_reset_quota('all of them', NULL, 'x');
SELECT bulk_reset_quota('SELECT user_id FROM nowhere', NULL, 'x');
SELECT bulk_reset_quota('SELECT user_id', NULL, 'x');
SELECT bulk_reset_quota('SELECT 1', NULL, 'x');
SELECT bulk_reset_quota('SELECT ''ann''', NULL, 'x');
SELECT bulk_reset_quota('SELECT 1 / 0', NULL, 'x');
SELECT bulk_reset_quota('SELECT NULL::uuid', NULL, 'x');
SELECT bulk_reset_quota('SELECT', NULL, 'x');
SELECT bulk_reset_quota('SELECT user_id FROM bulk_team; SELECT user_id FROM bulk_team', NULL, 'x');
SELECT bulk_reset_quota('DELETE FROM bulk_team RETURNING user_id', NULL, 'x');
SELECT bulk_reset_quota('WITH d AS (DELETE FROM bulk_team RETURNING user_id) SELECT user_id FROM d', NULL, 'x');
-- and what else is no argument
SELECT bulk_reset_quota('TABLE subscribers', 'bulk_cals', 'x');
SELECT bulk_reset_quota('TABLE subscribers', 'bulk_seats', 'x');
SELECT bulk_reset_quota('TABLE subscribers', NULL, NULL);
SELECT bulk_reset_quota('TABLE subscribers', NULL, '');
SELECT bulk_reset_quota('TABLE subscribers', NULL, 'x', NULL);
SELECT bulk_adjust_usage('TABLE subscribers', NULL, 1, 'x');
SELECT bulk_adjust_usage('TABLE subscribers', 'bulk_calls', NULL, 'x');
SELECT bulk_adjust_usage('TABLE subscribers', 'bulk_calls', 0, 'x');
SELECT bulk_adjust_usage('TABLE subscribers', 'bulk_calls', 'NaN', 'x');
SELECT bulk_adjust_usage('TABLE subscribers', 'bulk_calls', 1, NULL);
SELECT bulk_adjust_usage('TABLE subscribers', 'bulk_calls', 1, 'x', NULL);
SELECT bulk_assign_plan('TABLE subscribers', NULL);
SELECT bulk_assign_plan('TABLE subscribers', 'bulk_huge');
SELECT bulk_assign_plan('TABLE subscribers', 'bulk_big', NULL);
SELECT bulk_assign_plan('TABLE subscribers', 'bulk_big', 'some');
SELECT bulk_assign_plan('TABLE subscribers', 'bulk_big', 'keep', NULL, NULL);
SELECT bulk_grant_bonus('TABLE subscribers', NULL, 1);
SELECT bulk_grant_bonus('TABLE subscribers', 'bulk_calls', NULL);
SELECT bulk_grant_bonus('TABLE subscribers', 'bulk_calls', -1);
SELECT bulk_grant_bonus('TABLE subscribers', 'bulk_calls', 1, '2020-01-01');
SELECT bulk_grant_bonus('TABLE subscribers', 'bulk_calls', 1, NULL, NULL, NULL);
SELECT bulk_grant_bonus('TABLE subscribers', 'bulk_calls', 1, NULL, NULL, 50, 'stolen');
SELECT bulk_grant_bonus('TABLE subscribers', 'bulk_calls', 1, p_dry_run => NULL);
:difference

-- The query has the caller's rights, never the owner's ---------------------------------------------------

SET client_min_messages = warning;
CREATE ROLE regress_quota_bulk;
SELECT grant_access('regress_quota_bulk', 'admin');
CREATE ROLE regress_quota_bulk_app;
SELECT grant_access('regress_quota_bulk_app', 'app');
CREATE FUNCTION public.bulk_whoami() RETURNS SETOF uuid LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'as %', current_user;
	RETURN NEXT md5('bulk ann')::uuid;
END
$$;
SET ROLE regress_quota_bulk;
SELECT old_value, new_value FROM quota.bulk_adjust_usage('SELECT user_id FROM quota.subscriptions WHERE user_id = md5(''bulk ann'')::uuid', 'bulk_calls', 5, 'x');
SELECT * FROM quota.bulk_adjust_usage('SELECT user_id FROM public.bulk_team', 'bulk_calls', 5, 'x');
\set VERBOSITY terse
SELECT old_value, new_value FROM quota.bulk_adjust_usage('SELECT bulk_whoami()', 'bulk_calls', 5, 'x');
\set VERBOSITY sqlstate
RESET ROLE;
SET ROLE regress_quota_bulk_app;
SELECT quota.bulk_reset_quota('SELECT md5(''bulk ann'')::uuid', NULL, 'x');
SELECT quota.bulk_adjust_usage('SELECT md5(''bulk ann'')::uuid', 'bulk_calls', 5, 'x');
SELECT quota.bulk_assign_plan('SELECT md5(''bulk ann'')::uuid', 'bulk_big');
SELECT quota.bulk_grant_bonus('SELECT md5(''bulk ann'')::uuid', 'bulk_calls', 5);
SELECT quota.bulk_act('SELECT md5(''bulk ann'')::uuid', '', false, 'SELECT 1');
RESET ROLE;
-- its search path is the caller's, and is as before afterwards
SET search_path = pg_catalog;
SELECT count(*) FROM quota.bulk_reset_quota('SELECT user_id FROM bulk_team', NULL, 'x');
SET search_path = public, pg_temp;
SELECT count(*) FROM quota.bulk_reset_quota('SELECT user_id FROM bulk_team', NULL, 'x');
SHOW search_path;
RESET search_path;
:difference
DROP OWNED BY regress_quota_bulk, regress_quota_bulk_app;
DROP ROLE regress_quota_bulk, regress_quota_bulk_app;
DROP FUNCTION public.bulk_whoami();
DROP VIEW subscribers;
DROP TABLE public.bulk_team;

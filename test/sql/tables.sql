-- What DBAs and admins may do to the tables of the extension, and what the engine makes of it
\set VERBOSITY sqlstate
\set u '\'00000000-0000-4000-8000-0000000000aa\''
\set v '\'00000000-0000-4000-8000-0000000000ab\''
SET client_min_messages = warning;
SET timezone = 'UTC';
SET quota.test_clock = '2026-03-20 12:00:00+00';
INSERT INTO metrics (metric, kind) VALUES ('tables_calls', 'counter'), ('tables_level', 'gauge');
INSERT INTO plans (plan) VALUES ('tables_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('tables_plan', 'tables_calls', 'month', 100),
	('tables_plan', 'tables_level', 'month', 100);
SELECT assign_plan(:u, 'tables_plan'), assign_plan(:v, 'tables_plan');
SELECT allowed, used FROM check_and_consume_quota(:u, 'tables_calls', 1);

-- A trigger that suppresses a row makes the call fail, and nothing of it stays ---------------------------------------

CREATE FUNCTION public.tables_suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER suppress BEFORE UPDATE ON usage_tracking FOR EACH ROW EXECUTE FUNCTION public.tables_suppress();
SELECT allowed FROM check_and_consume_quota(:u, 'tables_calls', 1);
DROP TRIGGER suppress ON usage_tracking;
CREATE TRIGGER suppress BEFORE INSERT ON usage_tracking FOR EACH ROW EXECUTE FUNCTION public.tables_suppress();
SELECT allowed FROM check_and_consume_quota(:v, 'tables_calls', 1);
DROP TRIGGER suppress ON usage_tracking;
CREATE TRIGGER suppress BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION public.tables_suppress();
SELECT allowed FROM check_and_consume_quota(:u, 'tables_calls', 1);
DROP TRIGGER suppress ON usage_events;
CREATE TRIGGER suppress BEFORE INSERT ON quota_audit_log FOR EACH ROW EXECUTE FUNCTION public.tables_suppress();
SELECT allowed FROM check_and_consume_quota(:u, 'tables_calls', 1000);
DROP TRIGGER suppress ON quota_audit_log;
-- the acts of admins, too: none goes on as if it had written, or tries for ever
SET statement_timeout = '60s';
CREATE TRIGGER suppress BEFORE INSERT OR UPDATE ON subscriptions FOR EACH ROW EXECUTE FUNCTION public.tables_suppress();
SELECT assign_plan(:u, 'tables_plan');
SELECT assign_plan('00000000-0000-4000-8000-0000000000ac', 'tables_plan');
DROP TRIGGER suppress ON subscriptions;
CREATE TRIGGER suppress BEFORE INSERT OR UPDATE ON limit_overrides FOR EACH ROW EXECUTE FUNCTION public.tables_suppress();
SELECT set_limit_override(:u, 'tables_calls', 5);
DROP TRIGGER suppress ON limit_overrides;
CREATE TRIGGER suppress BEFORE INSERT ON user_bonuses FOR EACH ROW EXECUTE FUNCTION public.tables_suppress();
SELECT grant_bonus(:u, 'tables_calls', 5);
DROP TRIGGER suppress ON user_bonuses;
CREATE TRIGGER suppress BEFORE INSERT ON quota_audit_log FOR EACH ROW EXECUTE FUNCTION public.tables_suppress();
SELECT grant_bonus(:u, 'tables_calls', 5);
DROP TRIGGER suppress ON quota_audit_log;
RESET statement_timeout;
SELECT count(*) FROM user_bonuses WHERE user_id = :u;
DROP FUNCTION public.tables_suppress();

-- A trigger that lets rows pass makes a call lock before it writes; it has not waited for anybody
CREATE FUNCTION public.tables_pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER pass BEFORE UPDATE ON usage_tracking FOR EACH ROW EXECUTE FUNCTION public.tables_pass();
SELECT allowed, used FROM check_and_consume_quota(:u, 'tables_calls', 0.5);
SELECT waited FROM quota_audit_log WHERE user_id = :u AND attempted_amount = 0.5;
DROP TRIGGER pass ON usage_tracking;
DROP FUNCTION public.tables_pass();
SELECT allowed, used FROM check_and_consume_quota(:u, 'tables_calls', 1);
SELECT count(*) FROM usage_events WHERE user_id = :u;

-- Triggers that call for the account that is being written: an error where a row has changed under the call, and
-- nothing of it stays; where it has not been read yet, both count ---------------------------------------------------------

\set w '\'00000000-0000-4000-8000-0000000000ad\''
SELECT assign_plan(:w, 'tables_plan') IS NOT NULL AS assigned, grant_bonus(:w, 'tables_calls', 50) IS NOT NULL AS granted;
CREATE FUNCTION public.tables_recurse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() = 1 THEN
		PERFORM quota.check_and_consume_quota('00000000-0000-4000-8000-0000000000ad', 'tables_calls', 1);
	END IF;
	RETURN NEW;
END
$$;
CREATE TRIGGER recurse BEFORE INSERT ON usage_tracking FOR EACH ROW EXECUTE FUNCTION public.tables_recurse();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT allowed, used FROM check_and_consume_quota(:w, 'tables_calls', 2);
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SET LOCAL quota.isolation = 'latest';
SELECT allowed, used FROM check_and_consume_quota(:w, 'tables_calls', 2);
ROLLBACK;
SELECT allowed, used FROM check_and_consume_quota(:w, 'tables_calls', 2);
DROP TRIGGER recurse ON usage_tracking;
CREATE TRIGGER recurse BEFORE UPDATE ON user_bonuses FOR EACH ROW EXECUTE FUNCTION public.tables_recurse();
SELECT allowed FROM check_and_consume_quota(:w, 'tables_calls', 120);
DROP TRIGGER recurse ON user_bonuses;
CREATE TRIGGER recurse BEFORE UPDATE ON usage_tracking FOR EACH ROW EXECUTE FUNCTION public.tables_recurse();
SELECT allowed FROM check_and_consume_quota(:w, 'tables_calls', 1);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT allowed FROM check_and_consume_quota(:w, 'tables_calls', 1);
ROLLBACK;
DROP TRIGGER recurse ON usage_tracking;
CREATE TRIGGER recurse AFTER UPDATE ON usage_tracking FOR EACH ROW EXECUTE FUNCTION public.tables_recurse();
SELECT allowed, used FROM check_and_consume_quota(:w, 'tables_calls', 1);
DROP TRIGGER recurse ON usage_tracking;
-- after the event is written all is done
CREATE TRIGGER recurse BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION public.tables_recurse();
SELECT allowed, used FROM check_and_consume_quota(:w, 'tables_calls', 10);
DROP TRIGGER recurse ON usage_events;
DROP FUNCTION public.tables_recurse();
SELECT used, bonus_used FROM usage_tracking WHERE user_id = :w;
SELECT * FROM verify_ledger(:w);

-- Triggers that docs/guarantees.md says are not fired: a DBA who counts on them has to know ------------------------------

CREATE FUNCTION public.tables_never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'ZZ002'; END $$;
CREATE TRIGGER statement BEFORE INSERT ON usage_events FOR EACH STATEMENT EXECUTE FUNCTION public.tables_never();
CREATE TRIGGER statement AFTER UPDATE ON usage_tracking FOR EACH STATEMENT EXECUTE FUNCTION public.tables_never();
CREATE TRIGGER of_column AFTER UPDATE OF used ON usage_tracking FOR EACH ROW EXECUTE FUNCTION public.tables_never();
SELECT allowed FROM check_and_consume_quota(:w, 'tables_calls', 0.1);
-- while the same function, for each row, is
CREATE TRIGGER by_row AFTER UPDATE ON usage_tracking FOR EACH ROW EXECUTE FUNCTION public.tables_never();
SELECT allowed FROM check_and_consume_quota(:w, 'tables_calls', 0.1);
DROP FUNCTION public.tables_never() CASCADE;

-- A table whose updates are published needs a replica identity, for the engine as for an UPDATE ----------------------------

BEGIN;
SET LOCAL client_min_messages = error;
ALTER TABLE usage_tracking REPLICA IDENTITY NOTHING;
CREATE PUBLICATION regress_quota_tables FOR TABLE usage_tracking;
SELECT allowed FROM check_and_consume_quota(:w, 'tables_calls', 0.1);
ROLLBACK;
SELECT allowed FROM check_and_consume_quota(:w, 'tables_calls', 0.1);

-- Added columns get their default, or are computed, and keep their value ----------------------------------------------

ALTER TABLE usage_events ADD COLUMN region text NOT NULL DEFAULT upper('eu');
ALTER TABLE usage_tracking ADD COLUMN note text DEFAULT 'new', ADD COLUMN total numeric NOT NULL GENERATED ALWAYS AS (used + bonus_used) STORED;
SELECT allowed, used FROM check_and_consume_quota(:v, 'tables_calls', 3);
UPDATE usage_tracking SET note = 'seen' WHERE user_id = :v;
SELECT allowed, used FROM check_and_consume_quota(:v, 'tables_calls', 2);
SELECT used, note, total FROM usage_tracking WHERE user_id = :v;
SELECT DISTINCT region FROM usage_events WHERE user_id = :v;
ALTER TABLE usage_events DROP COLUMN region;
ALTER TABLE usage_tracking DROP COLUMN note, DROP COLUMN total;
SELECT allowed, used FROM check_and_consume_quota(:v, 'tables_calls', 1);

-- A metric that changes its kind starts anew with the next call: no level blocks the periods that follow ---------------

SELECT allowed, used FROM check_and_consume_quota(:u, 'tables_level', 50);
SET quota.test_clock = '2026-04-10 12:00:00+00';
SELECT allowed, used, resets_at FROM check_and_consume_quota(:u, 'tables_level', 50);
SELECT metric, used FROM get_users_near_quota_limit(80) WHERE user_id = :u;
UPDATE metrics SET kind = 'counter' WHERE metric = 'tables_level';
SET quota.test_clock = '2026-04-12 12:00:00+00';
SELECT metric, used FROM get_users_near_quota_limit(80) WHERE user_id = :u;
SELECT metric, used, remaining, period_start, resets_at FROM get_user_quota_status(:u) WHERE metric = 'tables_level';
SELECT allowed, reason, used, resets_at, retry_after FROM check_and_consume_quota(:u, 'tables_level', 101);
SELECT allowed, used, period_start, resets_at FROM check_and_consume_quota(:u, 'tables_level', 85);
SELECT allowed, used FROM check_and_consume_quota(:u, 'tables_level', 16);
SET quota.test_clock = '2026-05-02 12:00:00+00';
SELECT allowed, used, period_start, resets_at FROM check_and_consume_quota(:u, 'tables_level', 86);
SET quota.test_clock = '2026-05-10 12:00:00+00';
UPDATE metrics SET kind = 'gauge' WHERE metric = 'tables_level';
SELECT metric, used FROM get_users_near_quota_limit(80) WHERE user_id = :u;
SELECT allowed, used, period_start, resets_at FROM check_and_consume_quota(:u, 'tables_level', 20);
SET quota.test_clock = '2026-07-02 12:00:00+00';
SELECT allowed, used, period_start, resets_at FROM check_and_consume_quota(:u, 'tables_level', 21);
SELECT used, period_start, period_end FROM usage_history WHERE user_id = :u AND metric = 'tables_level' ORDER BY 2;
SELECT * FROM verify_ledger(:u);

-- Time zones have names; what only looks like one is refused -----------------------------------------------------------

SELECT assign_plan(:u, 'tables_plan', p_time_zone => z) IS NOT NULL FROM unnest(ARRAY['Asia/Kolkata', 'etc/gmt+5', 'Pacific/Apia', 'UTC']) AS z;
SELECT assign_plan(:u, 'tables_plan', p_time_zone => '+05:30');
SELECT assign_plan(:u, 'tables_plan', p_time_zone => 'FOO5');
SELECT assign_plan(:u, 'tables_plan', p_time_zone => 'Europe/Berlin1');
SELECT assign_plan(:u, 'tables_plan', p_time_zone => ':UTC');
SELECT assign_plan(:u, 'tables_plan', p_time_zone => '');

-- Changes of limits reach other sessions by triggers that a subscriber's apply worker fires, too -----------------------

SELECT tgrelid::regclass AS relation, tgname, tgenabled, (tgtype & 1) = 1 AS by_row FROM pg_trigger
	WHERE tgname LIKE 'invalidate%' ORDER BY tgrelid::regclass::text, tgname;

-- What a call sees inside a statement that changes limits, and what stays of it when the statement fails -----------------

CREATE FUNCTION public.tables_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM quota.check_quota('00000000-0000-4000-8000-0000000000aa', 'tables_calls');
	IF NEW.limit_amount IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'ZZ001';
	END IF;
	RETURN NEW;
END
$$;
\c -
\set VERBOSITY sqlstate
SET client_min_messages = warning;
SET quota.test_clock = '2026-07-02 12:00:00+00';
-- in a session that has read no limits yet, by triggers that come before and after ours
CREATE TRIGGER guard AFTER UPDATE ON plan_limits FOR EACH ROW EXECUTE FUNCTION public.tables_guard();
UPDATE plan_limits SET limit_amount = NULL WHERE plan = 'tables_plan' AND metric = 'tables_calls';
SELECT limit_amount, allowed FROM check_quota(:u, 'tables_calls', 1000);
DROP TRIGGER guard ON plan_limits;
\c -
SET client_min_messages = warning;
SET quota.test_clock = '2026-07-02 12:00:00+00';
CREATE TRIGGER z_guard BEFORE UPDATE ON plan_limits FOR EACH ROW EXECUTE FUNCTION public.tables_guard();
UPDATE plan_limits SET limit_amount = NULL WHERE plan = 'tables_plan' AND metric = 'tables_calls';
SELECT limit_amount, allowed FROM check_quota(:u, 'tables_calls', 1000);
DROP TRIGGER z_guard ON plan_limits;
DROP FUNCTION public.tables_guard();
\c -
SET client_min_messages = warning;
SET quota.test_clock = '2026-07-02 12:00:00+00';
WITH changed AS (UPDATE plan_limits SET limit_amount = 999999 WHERE plan = 'tables_plan' AND metric = 'tables_calls' RETURNING 1),
	called AS (SELECT o.limit_amount FROM changed, check_and_consume_quota(:u, 'tables_calls', 1) AS o)
	SELECT 1 / (limit_amount - 999999) FROM called;
SELECT limit_amount, allowed FROM check_quota(:u, 'tables_calls', 1000);
-- in one that has: own changes count at once
WITH changed AS (UPDATE plan_limits SET limit_amount = 50 WHERE plan = 'tables_plan' AND metric = 'tables_calls' RETURNING 1)
	SELECT o.limit_amount FROM changed, check_and_consume_quota(:u, 'tables_calls', 1) AS o;
WITH changed AS (INSERT INTO limit_overrides (user_id, metric, limit_amount) VALUES (:u, 'tables_calls', 0) RETURNING user_id)
	SELECT o.limit_amount, o.allowed FROM changed, check_and_consume_quota(user_id, 'tables_calls', 1) AS o;
WITH changed AS (DELETE FROM limit_overrides WHERE user_id = :u RETURNING user_id)
	SELECT o.limit_amount, o.allowed FROM changed, check_and_consume_quota(user_id, 'tables_calls', 1) AS o;
UPDATE plan_limits SET limit_amount = 100 WHERE plan = 'tables_plan' AND metric = 'tables_calls';

-- Each column of the catalogue that calls go by counts when it is changed, whatever is the same as before --------------

SET timezone = 'UTC';
INSERT INTO metrics (metric) VALUES ('tables_other');
INSERT INTO metric_aliases (alias, metric) VALUES ('tables_alias', 'tables_calls');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('tables_plan', 'tables_other', 'month', NULL);
SELECT metric, limit_amount FROM check_quota('00000000-0000-4000-8000-0000000000ae', 'tables_alias');
SELECT assign_plan('00000000-0000-4000-8000-0000000000ae', 'tables_plan', p_anchor => '2026-07-02 10:00+00');
SELECT metric, limit_amount FROM check_quota('00000000-0000-4000-8000-0000000000ae', 'tables_alias');
UPDATE metric_aliases SET metric = 'tables_other';
SELECT metric, limit_amount, allowed, resets_at FROM check_quota('00000000-0000-4000-8000-0000000000ae', 'tables_alias');
UPDATE plan_limits SET anchor = 'subscription' WHERE metric = 'tables_other';
SELECT metric, limit_amount, allowed, resets_at FROM check_quota('00000000-0000-4000-8000-0000000000ae', 'tables_alias');
UPDATE plan_limits SET limit_amount = 0 WHERE metric = 'tables_other';
SELECT metric, limit_amount, allowed, resets_at FROM check_quota('00000000-0000-4000-8000-0000000000ae', 'tables_alias');
UPDATE plan_limits SET period = 'day', limit_amount = 0.5 WHERE metric = 'tables_other';
SELECT metric, limit_amount, period, resets_at FROM check_quota('00000000-0000-4000-8000-0000000000ae', 'tables_alias');
DELETE FROM metric_aliases;
SELECT check_quota('00000000-0000-4000-8000-0000000000ae', 'tables_alias');

-- In a parallel plan, which must not be one then, with a cache that has to be filled -------------------------------------

CREATE TABLE public.tables_big AS SELECT g FROM generate_series(1, 1000) AS g;
ANALYZE public.tables_big;
\c -
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT (check_quota(:u, 'tables_calls')).allowed, resolve_metric('tables_calls') FROM public.tables_big WHERE g = 3;
SELECT count(*) FROM public.tables_big, get_user_quota_status(:u) WHERE g = 3;
COMMIT;

-- A library that was loaded in the middle of a parallel plan could not take over the settings: it is not, and they stay
CREATE FUNCTION public.tables_bucket(p_at timestamptz) RETURNS timestamptz PARALLEL RESTRICTED LANGUAGE plpgsql AS
	$$ BEGIN RETURN (quota.period_bounds('month', NULL, 'UTC', p_at)).period_start; END $$;
CREATE FUNCTION public.tables_check(p_user_id uuid) RETURNS boolean PARALLEL RESTRICTED LANGUAGE plpgsql AS
	$$ BEGIN RETURN (quota.check_quota(p_user_id, 'tables_calls')).allowed; END $$;
SELECT current_database() AS db \gset
ALTER DATABASE :db SET quota.default_plan = 'tables_plan';
ALTER DATABASE :db SET quota.isolation = 'latest';
ALTER DATABASE :db SET parallel_setup_cost = 0;
ALTER DATABASE :db SET parallel_tuple_cost = 0;
ALTER DATABASE :db SET min_parallel_table_scan_size = 0;
\c -
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT tables_bucket('2026-03-10 12:00+00') AT TIME ZONE 'UTC' AS bucket FROM public.tables_big WHERE g = 3;
SELECT count(*) FROM public.tables_big;
SELECT allowed, reason FROM check_and_consume_quota(md5('tables parallel')::uuid, 'tables_calls');
SELECT current_setting('quota.default_plan') AS default_plan, current_setting('quota.isolation') AS isolation;
SELECT tables_bucket('2026-03-10 12:00+00') AT TIME ZONE 'UTC' AS bucket FROM public.tables_big WHERE g = 3;
SELECT tables_check(md5('tables parallel')::uuid) FROM public.tables_big WHERE g = 3;
-- called in the query itself it is loaded in time, in the workers too
\c -
SELECT count(*) FROM public.tables_big WHERE (period_bounds('month', NULL, 'UTC', timestamptz '2026-03-10 12:00+00' + g * interval '1 day')).period_start = '2026-04-01 00:00+00';
SELECT allowed, reason FROM check_and_consume_quota(md5('tables parallel')::uuid, 'tables_calls');
\set VERBOSITY sqlstate
ALTER DATABASE :db RESET quota.default_plan;
ALTER DATABASE :db RESET quota.isolation;
ALTER DATABASE :db RESET parallel_setup_cost;
ALTER DATABASE :db RESET parallel_tuple_cost;
ALTER DATABASE :db RESET min_parallel_table_scan_size;
DROP FUNCTION public.tables_bucket(timestamptz), public.tables_check(uuid);
\c -
DROP TABLE public.tables_big;

-- A call that writes refuses to, in the worker that a function wrongly called parallel safe has brought it to
CREATE FUNCTION public.tables_unsafe(p_user_id uuid) RETURNS boolean PARALLEL SAFE LANGUAGE plpgsql AS
	$$ BEGIN RETURN (quota.check_and_consume_quota(p_user_id, 'tables_calls')).allowed; END $$;
SELECT allowed FROM check_quota(:u, 'tables_calls');
-- the setting had another name before PostgreSQL 16
SELECT count(set_config(name, 'on', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
\set VERBOSITY terse
SELECT tables_unsafe(:u);
\set VERBOSITY sqlstate
SELECT tables_unsafe(:u);
DROP FUNCTION public.tables_unsafe(uuid);

SELECT count(*) FROM unnest(ARRAY[:u, :v]::uuid[]) AS u, verify_ledger(u);

-- Who may do what: EXECUTE is the permission, and nothing is given to PUBLIC.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET client_min_messages = 'warning';

INSERT INTO metrics (metric) VALUES ('permissions_calls');
INSERT INTO plans (plan) VALUES ('permissions_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('permissions_plan', 'permissions_calls', 'month', 10);
SELECT md5('permissions ann')::uuid AS ann \gset
INSERT INTO subscriptions (user_id, plan) VALUES (:'ann', 'permissions_plan');
CREATE ROLE regress_quota_none;
CREATE ROLE regress_quota_app;
CREATE ROLE regress_quota_monitor;
CREATE ROLE regress_quota_admin;
SELECT grant_access('regress_quota_app', 'app');
SELECT grant_access('regress_quota_monitor', 'monitor');
SELECT grant_access('regress_quota_admin', 'admin');

-- The SQLSTATE that a statement ends with; what it did is undone
CREATE FUNCTION pg_temp.sqlstate_of(p_statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE p_statement;
	RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
	RETURN CASE SQLSTATE WHEN 'ZZ000' THEN 'ok' ELSE SQLSTATE END;
END
$$;
-- The same with every role
CREATE FUNCTION pg_temp.as_all(p_statement text, OUT nobody text, OUT app text, OUT monitor text, OUT admin text) LANGUAGE plpgsql AS $$
BEGIN
	SET LOCAL ROLE regress_quota_none;
	nobody := pg_temp.sqlstate_of(p_statement);
	SET LOCAL ROLE regress_quota_app;
	app := pg_temp.sqlstate_of(p_statement);
	SET LOCAL ROLE regress_quota_monitor;
	monitor := pg_temp.sqlstate_of(p_statement);
	SET LOCAL ROLE regress_quota_admin;
	admin := pg_temp.sqlstate_of(p_statement);
	RESET ROLE;
END
$$;

-- Calls -------------------------------------------------------------------------------

SELECT call, s.* FROM unnest(ARRAY[
		$$check_and_consume_quota(md5('permissions ann')::uuid, 'permissions_calls')$$,
		$$check_and_consume_quota(md5('permissions ann')::uuid, 'permissions_calls', 1, 'key', '{}')$$,
		$$check_quota(md5('permissions ann')::uuid, 'permissions_calls')$$,
		$$require_quota(md5('permissions ann')::uuid, 'permissions_calls')$$,
		$$get_user_quota_status(md5('permissions ann')::uuid)$$,
		$$get_users_near_quota_limit()$$,
		$$verify_ledger()$$,
		$$verify_ledger(md5('permissions ann')::uuid)$$,
		$$clock()$$,
		$$resolve_metric('permissions_calls')$$,
		$$period_bounds('month', NULL, 'UTC', '2026-03-10 12:00+00')$$,
		$$assign_plan(md5('permissions ann')::uuid, 'permissions_plan')$$,
		$$grant_bonus(md5('permissions ann')::uuid, 'permissions_calls', 5)$$,
		$$set_limit_override(md5('permissions ann')::uuid, 'permissions_calls', 5)$$,
		$$clear_limit_override(md5('permissions ann')::uuid, 'permissions_calls')$$,
		$$current_plan(md5('permissions ann')::uuid)$$,
		$$set_parent(md5('permissions ann')::uuid, NULL)$$,
		$$assign_plan(md5('permissions ann')::uuid, 'permissions_plan', 'reset')$$,
		$$assign_plan(md5('permissions ann')::uuid, 'permissions_plan', 'additive')$$,
		$$reset_user_quota(md5('permissions ann')::uuid, NULL, 'x')$$,
		$$adjust_usage(md5('permissions ann')::uuid, 'permissions_calls', 1, 'x')$$,
		$$bulk_reset_quota('SELECT md5(''permissions ann'')::uuid', NULL, 'x')$$,
		$$bulk_adjust_usage('SELECT md5(''permissions ann'')::uuid', 'permissions_calls', 1, 'x')$$,
		$$bulk_assign_plan('SELECT md5(''permissions ann'')::uuid', 'permissions_plan')$$,
		$$bulk_grant_bonus('SELECT md5(''permissions ann'')::uuid', 'permissions_calls', 1)$$,
		$$reset_counters(md5('permissions ann')::uuid, NULL)$$,
		$$adjust_account(md5('permissions ann')::uuid, 'permissions_calls', 1)$$,
		$$reset_account(md5('permissions ann')::uuid, 'permissions_calls')$$,
		$$load_preset('idoctor')$$,
		$$grant_access('regress_quota_none', 'admin')$$,
		$$record_admin_act(now(), 'forged', md5('permissions ann')::uuid, 'forged', NULL)$$,
		$$new_id(now())$$,
		$$checked_expiry(NULL)$$]) AS call,
	LATERAL pg_temp.as_all('SELECT * FROM quota.' || call) AS s;

-- Tables: nobody writes what the engine writes, and the app reads nothing ------------------

SELECT t AS "table", r.nobody AS read_nobody, r.app AS read_app, r.monitor AS read_monitor, r.admin AS read_admin
	FROM unnest(ARRAY['metrics', 'metric_aliases', 'plans', 'plan_limits', 'subscriptions', 'limit_overrides', 'usage_tracking', 'usage_history',
		'user_bonuses', 'usage_events', 'bonus_allocations', 'quota_audit_log']) AS t,
	LATERAL pg_temp.as_all(format('SELECT FROM quota.%I', t)) AS r;
SELECT t AS "table", command, w.* FROM unnest(ARRAY['metrics', 'metric_aliases', 'plans', 'plan_limits', 'subscriptions', 'limit_overrides', 'usage_tracking', 'usage_history',
		'user_bonuses', 'usage_events', 'bonus_allocations', 'quota_audit_log']) WITH ORDINALITY AS t (t, nr),
	unnest(ARRAY['INSERT INTO quota.%I (%I) SELECT %2$I FROM quota.%1$I WHERE false', 'UPDATE quota.%I SET %I = DEFAULT WHERE false', 'DELETE FROM quota.%I WHERE false', 'TRUNCATE quota.%I CASCADE']) WITH ORDINALITY AS c (c, cnr),
	LATERAL (SELECT split_part(c, ' ', 1) AS command) AS n,
	LATERAL (SELECT attname FROM pg_attribute WHERE attrelid = ('quota.' || t)::regclass AND attnum = 2) AS a,
	LATERAL pg_temp.as_all(format(c, t, attname)) AS w
	ORDER BY t.nr, c.cnr;
-- no right on any table but those
SELECT c.relname, a.grantee::regrole, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type) AS rights
	FROM pg_class c, aclexplode(c.relacl) AS a
	WHERE c.relnamespace = 'quota'::regnamespace AND a.grantee IN ('regress_quota_app'::regrole, 'regress_quota_monitor'::regrole, 'regress_quota_admin'::regrole)
	GROUP BY 1, 2 ORDER BY 2::text, 1;

-- As the app role itself, with the library it finds ---------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SET ROLE regress_quota_app;
SELECT allowed, remaining, used FROM check_and_consume_quota(:'ann', 'permissions_calls', 2, 'k', '{"by": "app"}');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'ann', 'permissions_calls', 2, 'k');
SELECT allowed, reason FROM check_and_consume_quota(:'ann', 'permissions_calls', 20);
SELECT allowed, remaining FROM check_quota(:'ann', 'permissions_calls', 2);
SELECT metric, used, remaining FROM get_user_quota_status(:'ann');
SELECT check_and_consume_quota(:'ann', 'permissions_cals');
SELECT * FROM quota.usage_events;
INSERT INTO quota.user_bonuses (user_id, metric, amount) VALUES (:'ann', 'permissions_calls', 1000000);
UPDATE quota.usage_tracking SET used = 0;
DELETE FROM quota.quota_audit_log;
RESET ROLE;
-- what it wrote is there
SELECT used FROM usage_tracking WHERE user_id = :'ann';
SELECT success, reason, actor FROM quota_audit_log WHERE user_id = :'ann' ORDER BY attempted_amount, reason;
-- an admin act tells who it was
SET ROLE regress_quota_admin;
SELECT grant_bonus(:'ann', 'permissions_calls', 1) IS NOT NULL AS granted;
INSERT INTO quota.metrics (metric) VALUES ('permissions_more');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount) VALUES ('permissions_plan', 'permissions_more', '1 day', 5);
UPDATE quota.plan_limits SET limit_amount = -1 WHERE metric = 'permissions_more';
UPDATE quota.plan_limits SET limit_amount = 6 WHERE metric = 'permissions_more';
SELECT period, limit_amount FROM quota.plan_limits WHERE metric = 'permissions_more';
DELETE FROM quota.metrics WHERE metric = 'permissions_more';
RESET ROLE;
SELECT action, actor = session_user AS names_login FROM quota_audit_log WHERE user_id = :'ann' AND action <> 'consume';

-- One function is enough for all that a call may have to do: several windows, first use, a period that ends, an override,
-- an anchor, bonuses in part and in whole, a key, a denial.
CREATE ROLE regress_quota_one;
GRANT USAGE ON SCHEMA quota TO regress_quota_one;
GRANT EXECUTE ON FUNCTION check_and_consume_quota(uuid, text, numeric, text, jsonb) TO regress_quota_one;
INSERT INTO metrics (metric) VALUES ('permissions_all');
INSERT INTO plan_limits (plan, metric, period, limit_amount, anchor) VALUES ('permissions_plan', 'permissions_all', 'month', 10, 'subscription'),
	('permissions_plan', 'permissions_all', 'day', 20, 'first_use');
SELECT grant_bonus(:'ann', 'permissions_all', 1.5) IS NOT NULL, grant_bonus(:'ann', 'permissions_all', 2, '2027-01-01') IS NOT NULL;
SELECT set_limit_override(:'ann', 'permissions_all', 9);
SET ROLE regress_quota_one;
SELECT allowed, reason, used, bonus_used FROM quota.check_and_consume_quota(:'ann', 'permissions_all', 8);
SELECT allowed, reason, used, bonus_used FROM quota.check_and_consume_quota(:'ann', 'permissions_all', 2, 'k');
SELECT allowed, already_processed FROM quota.check_and_consume_quota(:'ann', 'permissions_all', 2, 'k');
SELECT allowed, reason, used, bonus_used FROM quota.check_and_consume_quota(:'ann', 'permissions_all', 2.5);
SELECT allowed, reason FROM quota.check_and_consume_quota(:'ann', 'permissions_all', 1);
RESET ROLE;
SET quota.test_clock = '2026-05-10 12:00:00+00';
SET ROLE regress_quota_one;
SELECT allowed, reason, used, bonus_used FROM quota.check_and_consume_quota(:'ann', 'permissions_all', 8);
RESET ROLE;
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT period, used, bonus_used FROM usage_history WHERE metric = 'permissions_all' ORDER BY 1;
DROP OWNED BY regress_quota_one;
DROP ROLE regress_quota_one;

-- A role without access -----------------------------------------------------------------------------

SET ROLE regress_quota_none;
SELECT quota.check_and_consume_quota(:'ann', 'permissions_calls');
SELECT quota.check_quota(:'ann', 'permissions_calls');
RESET ROLE;
-- EXECUTE without USAGE on the schema, and USAGE without EXECUTE
GRANT EXECUTE ON FUNCTION check_and_consume_quota(uuid, text, numeric, text, jsonb) TO regress_quota_none;
SET ROLE regress_quota_none;
SELECT quota.check_and_consume_quota(:'ann', 'permissions_calls');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION check_and_consume_quota(uuid, text, numeric, text, jsonb) FROM regress_quota_none;
GRANT USAGE ON SCHEMA quota TO regress_quota_none;
SET ROLE regress_quota_none;
SELECT quota.check_and_consume_quota(:'ann', 'permissions_calls');
SELECT quota.require_quota(:'ann', 'permissions_calls');
RESET ROLE;
REVOKE USAGE ON SCHEMA quota FROM regress_quota_none;

-- Levels --------------------------------------------------------------------------------------------------

-- a lower level takes away what a higher one gave, and twice is once
SELECT grant_access('regress_quota_none', 'admin');
SELECT grant_access('regress_quota_none', 'app');
SELECT grant_access('regress_quota_none', 'app');
SELECT count(*) FROM pg_class c, aclexplode(c.relacl) AS a WHERE a.grantee = 'regress_quota_none'::regrole;
SELECT string_agg(p.proname, ', ' ORDER BY p.proname) FROM pg_proc p, aclexplode(p.proacl) AS a WHERE a.grantee = 'regress_quota_none'::regrole;
SELECT string_agg(p.proname, ', ' ORDER BY p.proname) FROM pg_proc p, aclexplode(p.proacl) AS a WHERE a.grantee = 'regress_quota_monitor'::regrole;
SELECT string_agg(p.proname, ', ' ORDER BY p.proname) FROM pg_proc p, aclexplode(p.proacl) AS a WHERE a.grantee = 'regress_quota_admin'::regrole;
-- nobody hands it on
SELECT bool_or(a.is_grantable) FROM pg_proc p, aclexplode(p.proacl) AS a WHERE a.grantee::regrole::text LIKE 'regress_quota%';
-- only the owner gives access, even where EXECUTE was given by hand
SELECT grant_access('regress_quota_missing', 'app');
SELECT grant_access('regress_quota_app', 'superuser');
SELECT grant_access(NULL, 'app');
SELECT grant_access('-', 'app');
GRANT EXECUTE ON FUNCTION grant_access(regrole, text) TO regress_quota_admin;
SET ROLE regress_quota_admin;
SELECT grant_access('regress_quota_none', 'admin');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION grant_access(regrole, text) FROM regress_quota_admin;

-- Settings that change what is enforced are for superusers ---------------------------------------------------

SET ROLE regress_quota_app;
SET quota.test_clock = '2036-01-01 00:00:00+00';
SET quota.default_plan = 'permissions_plan';
RESET quota.test_clock;
SET quota.isolation = 'latest';
SHOW quota.isolation;
RESET quota.isolation;
RESET ROLE;
-- nor before the library knows them: then the attempt ends when it is loaded
\c -
SET client_min_messages = 'warning';
SET SESSION AUTHORIZATION regress_quota_app;
SET quota.test_clock = '2036-01-01 00:00:00+00';
SET quota.default_plan = 'permissions_plan';
SET quota.isolation = 'latest';
SELECT allowed, reason, resets_at < '2036-01-01' IS NOT FALSE AS own_clock FROM quota.check_quota(md5('permissions nobody')::uuid, 'permissions_calls');
SHOW quota.isolation;
SELECT current_setting('quota.test_clock') AS test_clock, current_setting('quota.default_plan') AS default_plan;
SELECT set_config('quota.test_clock', '2036-01-01 00:00:00+00', false);
RESET SESSION AUTHORIZATION;
SELECT clock() < '2036-01-01' AS own_clock;

-- A trigger of the user on a table that the engine writes runs as the caller: whatever the caller's search_path
-- makes of the names in it has no more rights than the caller -----------------------------------------------------

CREATE TABLE public.permissions_seen (who text, as_user text, amount numeric);
CREATE FUNCTION public.permissions_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.permissions_seen VALUES (TG_TABLE_NAME, current_user, (to_jsonb(NEW) ->> 'amount')::numeric);
	RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION public.permissions_trigger() FROM PUBLIC;
CREATE TRIGGER permissions AFTER INSERT ON quota.usage_events FOR EACH ROW EXECUTE FUNCTION public.permissions_trigger();
CREATE TRIGGER permissions AFTER INSERT OR UPDATE ON quota.usage_tracking FOR EACH ROW EXECUTE FUNCTION public.permissions_trigger();
CREATE TRIGGER permissions AFTER INSERT ON quota.quota_audit_log FOR EACH ROW EXECUTE FUNCTION public.permissions_trigger();
SET ROLE regress_quota_app;
-- it may not write that table, so the call fails, and nothing of it stays
SELECT allowed FROM quota.check_and_consume_quota(md5('permissions ann')::uuid, 'permissions_calls', 0.5);
RESET ROLE;
SELECT count(*) FROM quota.usage_events WHERE amount = 0.5 AND user_id = md5('permissions ann')::uuid;
GRANT INSERT ON public.permissions_seen TO regress_quota_app;
SET ROLE regress_quota_app;
SELECT allowed FROM quota.check_and_consume_quota(md5('permissions ann')::uuid, 'permissions_calls', 0.5);
SELECT current_user;
RESET ROLE;
SELECT s.who, s.as_user, trim_scale(s.amount) AS amount FROM public.permissions_seen AS s ORDER BY 1;
-- and what it raises reaches the caller, who is who he was
CREATE OR REPLACE FUNCTION public.permissions_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'ZZ001';
END
$$;
SET ROLE regress_quota_app;
SELECT quota.check_and_consume_quota(md5('permissions ann')::uuid, 'permissions_calls', 0.5);
SELECT current_user;
RESET ROLE;
DROP TRIGGER permissions ON quota.usage_events;
DROP TRIGGER permissions ON quota.usage_tracking;
DROP TRIGGER permissions ON quota.quota_audit_log;
DROP FUNCTION public.permissions_trigger();
DROP TABLE public.permissions_seen;

DROP OWNED BY regress_quota_none, regress_quota_app, regress_quota_monitor, regress_quota_admin;
DROP ROLE regress_quota_none, regress_quota_app, regress_quota_monitor, regress_quota_admin;
SELECT count(*) FROM verify_ledger() AS v WHERE v.metric LIKE 'permissions%';

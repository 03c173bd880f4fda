-- The settings quota.*: what they accept.  Who may set them is in permissions.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';

-- the library defines them when it is loaded
SELECT clock() IS NOT NULL AS running;
SELECT name, setting, context, vartype, enumvals, short_desc IS NOT NULL AS described FROM pg_settings WHERE name LIKE 'quota.%' ORDER BY name;

-- Isolation ------------------------------------------------------------------------
SET quota.isolation = 'latest';
SHOW quota.isolation;
SET quota.isolation = 'STRICT';
SHOW quota.isolation;
SET quota.isolation = 'serializable';
SET quota.isolation = '';
SET quota.isolation = 1;
SHOW quota.isolation;
BEGIN;
SET LOCAL quota.isolation = 'latest';
SHOW quota.isolation;
COMMIT;
SHOW quota.isolation;
RESET quota.isolation;

-- Test clock -------------------------------------------------------------------------
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT clock();
-- without a zone the session's counts
SET TimeZone = 'Asia/Tokyo';
SET quota.test_clock = '2026-03-10 12:00:00';
SET TimeZone = 'UTC';
SELECT clock();
SET quota.test_clock = '2026-03-10 12:00:00.123456 America/New_York';
SELECT clock();
SET quota.test_clock = '2026-03-10';
SELECT clock();
-- what is no instant
SET quota.test_clock = 'noon';
SET quota.test_clock = 'infinity';
SET quota.test_clock = '-infinity';
SET quota.test_clock = 'epoch';
SET quota.test_clock = '2026-13-10';
SET quota.test_clock = '2026-02-30 12:00:00+00';
SET quota.test_clock = '12:00:00';
SET quota.test_clock = '999999-01-01 00:00:00+00';
SET quota.test_clock = ' ';
-- (none of them took effect)
SELECT clock();
BEGIN;
SET LOCAL quota.test_clock = '2020-01-01 00:00:00+00';
SELECT clock();
SAVEPOINT s;
SET LOCAL quota.test_clock = '2021-01-01 00:00:00+00';
SELECT clock();
ROLLBACK TO s;
SELECT clock();
COMMIT;
SELECT clock();
SET quota.test_clock = '';
SELECT abs(extract(epoch FROM clock() - clock_timestamp())) < 60 AS runs;
RESET quota.test_clock;
SELECT abs(extract(epoch FROM clock() - clock_timestamp())) < 60 AS runs;
-- frozen, it is the time of all that is written
SET quota.test_clock = '2026-03-10 12:00:00+00';
INSERT INTO plans (plan) VALUES ('settings_plan');
INSERT INTO metrics (metric) VALUES ('settings_calls');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('settings_plan', 'settings_calls', 'day', 10);
INSERT INTO subscriptions (user_id, plan) VALUES (md5('settings ann')::uuid, 'settings_plan');
SELECT period_start FROM check_and_consume_quota(md5('settings ann')::uuid, 'settings_calls');
SELECT s.anchor, s.created_at, e.created_at, a.created_at,
		-- identifiers are UUIDs version 7 of that time
		substring(e.id::text FROM 15 FOR 1) AS version, to_timestamp(('x' || substring(replace(e.id::text, '-', '') FOR 12))::bit(48)::bigint / 1000.0) AS at
	FROM subscriptions s JOIN usage_events e USING (user_id) JOIN quota_audit_log a USING (user_id) WHERE user_id = md5('settings ann')::uuid;

-- Default plan: looked up when it is needed, so any name will do here ------------------------
SET quota.default_plan = 'settings_plan';
SELECT allowed, limit_amount FROM check_quota(md5('settings nobody')::uuid, 'settings_calls');
SET quota.default_plan = 'settings_later';
SELECT check_quota(md5('settings nobody')::uuid, 'settings_calls');
INSERT INTO plans (plan) VALUES ('settings_later');
SELECT allowed, reason FROM check_quota(md5('settings nobody')::uuid, 'settings_calls');
SET quota.default_plan = '';
SELECT allowed, reason FROM check_quota(md5('settings nobody')::uuid, 'settings_calls');
SET quota.default_plan TO DEFAULT;
SELECT allowed, reason FROM check_quota(md5('settings nobody')::uuid, 'settings_calls');

-- Names that do not exist -----------------------------------------------------------------------
SET quota.unknown = 'x';
SET quota.defaultplan = 'settings_plan';
SHOW quota.unknown;
SELECT set_config('quota.unknown', 'x', false);
-- also one that was set before the library knew
\c -
SET quota.unknown = 'x';
SET quota.isolation = 'sideways';
SELECT clock() IS NOT NULL AS running;
SHOW quota.isolation;
SHOW quota.unknown;

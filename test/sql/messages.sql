-- What an error says: the fact, the numbers, the remedy.  Everything that a call or an act answers to bad input.
\set SHOW_CONTEXT never
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric) VALUES ('messages_calls');
INSERT INTO plans (plan) VALUES ('messages_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('messages_plan', 'messages_calls', 'month', 10);
SELECT md5('messages ann')::uuid AS ann \gset
INSERT INTO subscriptions (user_id, plan) VALUES (:'ann', 'messages_plan');

-- Calls
SELECT check_and_consume_quota(NULL, 'messages_calls');
SELECT check_and_consume_quota(:'ann', NULL);
SELECT check_and_consume_quota(:'ann', '');
SELECT check_and_consume_quota(:'ann', 'messages_cals');
SELECT check_and_consume_quota(:'ann', 'messages_calls', NULL);
SELECT check_and_consume_quota(:'ann', 'messages_calls', 0);
SELECT check_and_consume_quota(:'ann', 'messages_calls', -3);
SELECT check_and_consume_quota(:'ann', 'messages_calls', 'NaN');
SELECT check_and_consume_quota(:'ann', 'messages_calls', 'Infinity');
SELECT check_and_consume_quota(:'ann', 'messages_calls', 0.1234567);
SELECT check_and_consume_quota(:'ann', 'messages_calls', 1e18);
SELECT check_and_consume_quota(:'ann', 'messages_calls', 1, '');
SELECT check_and_consume_quota(:'ann', 'messages_calls', 1, NULL, '[]');
SELECT check_and_consume_quota(:'ann', 'messages_calls', 1, NULL, jsonb_build_object('a', repeat('x', 65536)));
SELECT require_quota(:'ann', 'messages_calls', 10.5);
SELECT set_limit_override(:'ann', 'messages_calls', 3, p_period => 'lifetime');
SELECT require_quota(:'ann', 'messages_calls', 4);
SELECT clear_limit_override(:'ann', 'messages_calls', p_period => 'lifetime');
SET quota.default_plan = 'messages_pla';
SELECT check_and_consume_quota(md5('messages nobody')::uuid, 'messages_calls');
SET quota.default_plan = '';
SELECT require_quota(md5('messages nobody')::uuid, 'messages_calls');
RESET quota.default_plan;
BEGIN READ ONLY;
SELECT check_and_consume_quota(:'ann', 'messages_calls');
ROLLBACK;

-- Acts
SELECT assign_plan(:'ann', NULL);
SELECT assign_plan(NULL, 'messages_plan');
SELECT assign_plan(:'ann', 'messages_pla');
SELECT assign_plan(:'ann', 'messages_plan', 'later');
SELECT assign_plan(:'ann', 'messages_plan', 'at_period_end', p_time_zone => 'UTC');
SELECT set_parent(:'ann', :'ann');
SELECT adjust_usage(:'ann', 'messages_calls', 0, 'why');
SELECT adjust_usage(:'ann', 'messages_calls', 1, ' ');
SELECT assign_plan(:'ann', 'messages_plan', p_anchor => 'infinity');
SELECT assign_plan(:'ann', 'messages_plan', p_time_zone => 'Mars/Olympus');
SELECT grant_bonus(:'ann', 'messages_cals', 1);
SELECT grant_bonus(:'ann', 'messages_calls', -1);
SELECT grant_bonus(:'ann', 'messages_calls', 1, 'infinity');
SELECT grant_bonus(:'ann', 'messages_calls', 1, '2026-03-10 12:00:00+00');
SELECT grant_bonus(:'ann', 'messages_calls', 1, p_priority => NULL);
SELECT grant_bonus(:'ann', 'messages_calls', 1, p_source => 'stolen');
SELECT set_limit_override(:'ann', 'messages_calls', -1);
SELECT set_limit_override(:'ann', 'messages_calls', 1, p_period => 'fortnight');
SELECT load_preset('sheenaps');
SELECT get_users_near_quota_limit(0);
SELECT grant_access(current_user::regrole, 'app');
CREATE ROLE regress_quota_messages;
SELECT grant_access('regress_quota_messages', 'root');
SELECT grant_access(0, 'app');
SET ROLE regress_quota_messages;
SELECT quota.check_and_consume_quota('00000000-0000-4000-8000-000000000001', 'messages_calls');
RESET ROLE;
DROP ROLE regress_quota_messages;

-- Tables and triggers that do not fit
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('messages_plan', 'messages_calls', 'fortnight', 1);
SELECT allowed FROM check_and_consume_quota(:'ann', 'messages_calls', 1);
SELECT require_quota(:'ann', 'messages_calls', 9.5);
BEGIN;
UPDATE usage_tracking SET used = -1 WHERE user_id = :'ann';
SELECT check_and_consume_quota(:'ann', 'messages_calls');
ROLLBACK;
BEGIN;
CREATE FUNCTION pg_temp.suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER suppress BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION pg_temp.suppress();
SELECT check_and_consume_quota(:'ann', 'messages_calls');
ROLLBACK;
UPDATE subscriptions SET time_zone = 'Mars/Olympus' WHERE user_id = :'ann';
BEGIN;
SET LOCAL quota.test_clock = '2026-04-10 12:00:00+00';
ALTER TABLE subscriptions DROP CONSTRAINT subscriptions_time_zone_check;
UPDATE subscriptions SET time_zone = 'Mars/Olympus' WHERE user_id = :'ann';
SELECT check_and_consume_quota(:'ann', 'messages_calls');
ROLLBACK;
BEGIN;
ALTER TABLE usage_events RENAME TO usage_event;
SELECT check_and_consume_quota(:'ann', 'messages_calls');
ROLLBACK;
SET quota.isolation = 'strictest';
SET quota.test_clock = 'tomorrow or so';

SELECT allowed, used FROM check_and_consume_quota(:'ann', 'messages_calls', 1);

-- Running: presets, plans, bonuses, overrides, and what they leave in the log;
-- seeing: status, the near-limit list, the ledger.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Presets -------------------------------------------------------------------------

-- alone, each in a transaction of its own that is rolled back
CREATE FUNCTION pg_temp.catalogue(OUT metrics bigint, OUT aliases bigint, OUT plans bigint, OUT limits bigint) LANGUAGE sql AS $$
	SELECT (SELECT count(*) FROM quota.metrics), (SELECT count(*) FROM quota.metric_aliases),
		(SELECT count(*) FROM quota.plans), (SELECT count(*) FROM quota.plan_limits)
$$;
SELECT * FROM pg_temp.catalogue() \gset had_
BEGIN;
SELECT load_preset('sheenapps');
SELECT l.plan, l.metric, m.kind, l.period, l.anchor, l.limit_amount FROM plan_limits l JOIN metrics m USING (metric)
	WHERE l.metric IN ('ai_generations', 'projects_created', 'exports') ORDER BY array_position(ARRAY['free', 'starter', 'growth'], l.plan), l.metric;
SELECT alias, metric FROM metric_aliases WHERE alias = 'projects';
SELECT load_preset('sheenapps') AS again;
SELECT metrics - :had_metrics AS metrics, aliases - :had_aliases AS aliases, plans - :had_plans AS plans, limits - :had_limits AS limits FROM pg_temp.catalogue();
ROLLBACK;
BEGIN;
SELECT load_preset('idoctor');
SELECT l.plan, l.metric, m.kind, m.unit, l.period, l.limit_amount FROM plan_limits l JOIN metrics m USING (metric) WHERE l.plan = 'idoctor' ORDER BY l.metric;
SELECT load_preset('idoctor') AS again;
SELECT metrics - :had_metrics AS metrics, aliases - :had_aliases AS aliases, plans - :had_plans AS plans, limits - :had_limits AS limits FROM pg_temp.catalogue();
ROLLBACK;
BEGIN;
SELECT load_preset('rag_trial');
SELECT l.plan, l.metric, m.kind, l.period, l.limit_amount FROM plan_limits l JOIN metrics m USING (metric)
	WHERE l.metric IN ('tokens', 'api_calls', 'chat_messages', 'embeddings')
	ORDER BY array_position(ARRAY['trial', 'starter', 'pro', 'enterprise'], l.plan), l.metric;
SELECT metric, unit_cost > 0 AS priced FROM metrics WHERE metric IN ('tokens', 'api_calls', 'chat_messages', 'embeddings') ORDER BY metric;
SELECT load_preset('rag_trial') AS again;
SELECT metrics - :had_metrics AS metrics, aliases - :had_aliases AS aliases, plans - :had_plans AS plans, limits - :had_limits AS limits FROM pg_temp.catalogue();
ROLLBACK;
BEGIN;
SELECT load_preset('bn_aura');
SELECT p.plan, p.price, p.currency, l.period, l.limit_amount, l.overage_price FROM plans p JOIN plan_limits l USING (plan)
	WHERE l.metric = 'ai_scans' ORDER BY p.price;
SELECT l.metric, m.kind, string_agg(l.plan, ', ' ORDER BY p.price) AS plans, bool_and(l.limit_amount IS NULL) AS unlimited
	FROM plan_limits l JOIN metrics m USING (metric) JOIN plans p USING (plan)
	WHERE m.kind = 'feature' AND p.currency = 'THB' GROUP BY 1, 2 ORDER BY count(*) DESC, 1;
SELECT load_preset('bn_aura') AS again;
-- each leaves a row in the log, which concerns no single subject
SELECT user_id, success, reason, detail, actor = session_user AS by_me FROM quota_audit_log WHERE action = 'load_preset' ORDER BY (detail ->> 'added')::int DESC;
SELECT metrics - :had_metrics AS metrics, aliases - :had_aliases AS aliases, plans - :had_plans AS plans, limits - :had_limits AS limits FROM pg_temp.catalogue();
ROLLBACK;
-- the catalogue is as before, in this session's memory too
SELECT check_quota(md5('admin nobody')::uuid, 'ai_scans');

-- all four: what is there stays as it is, what is missing is added
BEGIN;
INSERT INTO plans (plan, description, price, currency) VALUES ('starter', 'ours', 5, 'EUR');
INSERT INTO metrics (metric) VALUES ('exports');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('starter', 'exports', 'month', 77);
SELECT load_preset('sheenapps') AS sheenapps, load_preset('rag_trial') AS rag_trial, load_preset('bn_aura') AS bn_aura, load_preset('idoctor') AS idoctor;
SELECT description, price, currency FROM plans WHERE plan = 'starter';
SELECT metric, period, limit_amount FROM plan_limits WHERE plan = 'starter' ORDER BY metric;
SELECT metric, period, limit_amount FROM plan_limits WHERE plan = 'enterprise' ORDER BY metric;
SELECT metrics - :had_metrics AS metrics, aliases - :had_aliases AS aliases, plans - :had_plans AS plans, limits - :had_limits AS limits FROM pg_temp.catalogue();
-- and they work: 0.2 for a quick scan, a flag, an unlimited plan, an alias
SELECT assign_plan(md5('admin clinic')::uuid, 'starter');
SELECT allowed, trim_scale(remaining) AS remaining FROM check_and_consume_quota(md5('admin clinic')::uuid, 'ai_scans', 0.2);
SELECT metric, allowed, remaining, reason FROM unnest(ARRAY['proposal_generation', 'realtime_support']) AS m, check_quota(md5('admin clinic')::uuid, m);
SELECT allowed, remaining, metric FROM check_and_consume_quota(md5('admin clinic')::uuid, 'projects', 10);
SELECT assign_plan(md5('admin clinic')::uuid, 'enterprise');
SELECT allowed, remaining, limit_amount FROM check_and_consume_quota(md5('admin clinic')::uuid, 'tokens', 812.5);
ROLLBACK;
SELECT load_preset('unknown');

-- Plans ------------------------------------------------------------------------------------

INSERT INTO metrics (metric, kind) VALUES ('admin_calls', 'counter'), ('admin_seats', 'gauge'), ('admin_free', 'counter'),
	('admin_closed', 'counter'), ('admin_feature', 'feature'), ('admin_bonus', 'counter');
INSERT INTO metric_aliases VALUES ('admin_requests', 'admin_calls');
INSERT INTO plans (plan) VALUES ('admin_basic'), ('admin_big');
INSERT INTO plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	('admin_basic', 'admin_calls', 'month', 200, 'subscription'), ('admin_basic', 'admin_calls', 'minute', 150, 'calendar'),
	('admin_basic', 'admin_seats', 'lifetime', 4, 'calendar'), ('admin_basic', 'admin_free', 'day', NULL, 'calendar'),
	('admin_basic', 'admin_closed', 'month', 0, 'calendar'), ('admin_basic', 'admin_feature', 'lifetime', NULL, 'calendar'),
	('admin_basic', 'admin_bonus', 'week', 10, 'first_use'),
	('admin_big', 'admin_calls', 'month', 1000, 'subscription');
SELECT md5('admin ann')::uuid AS ann, md5('admin ben')::uuid AS ben, md5('admin cat')::uuid AS cat, md5('admin dan')::uuid AS dan,
	md5('admin eve')::uuid AS eve, md5('admin fay')::uuid AS fay, md5('admin nobody')::uuid AS nobody \gset

SELECT assign_plan(:'ann', 'admin_basic');
SELECT plan, anchor, time_zone, created_at, updated_at FROM subscriptions WHERE user_id = :'ann';
SELECT used FROM check_and_consume_quota(:'ann', 'admin_calls', 100);
-- anchor and zone stay unless given, the counts stay in any case
SET quota.test_clock = '2026-03-11 12:00:00+00';
SELECT assign_plan(:'ann', 'admin_big', 'keep', p_reason => 'upgrade');
SELECT plan, anchor, time_zone, created_at, updated_at FROM subscriptions WHERE user_id = :'ann';
SELECT allowed, remaining, used, period_start FROM check_and_consume_quota(:'ann', 'admin_calls', 100);
SELECT assign_plan(:'ann', 'admin_basic', p_anchor => '2026-01-31 00:00+00', p_time_zone => 'America/Havana');
SELECT plan, anchor, time_zone, created_at, updated_at FROM subscriptions WHERE user_id = :'ann';
SELECT assign_plan(:'ann', 'admin_misspelt');
SELECT assign_plan(:'ann', 'admin_big', 'prorated');
SELECT plan FROM subscriptions WHERE user_id = :'ann';
-- a plan in use cannot be deleted
DELETE FROM plans WHERE plan = 'admin_basic';
SELECT created_at, action, metric, success, reason, detail, actor = session_user AS by_me FROM quota_audit_log
	WHERE user_id = :'ann' AND action = 'assign_plan' ORDER BY created_at, detail ->> 'old' NULLS FIRST, detail -> 'new' ->> 'plan' DESC;

-- Bonuses and overrides in the log ---------------------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT count(assign_plan(u, 'admin_basic')) FROM unnest(ARRAY[:'ben', :'cat', :'dan', :'eve', :'fay']::uuid[]) AS u;
SELECT grant_bonus(:'ben', 'admin_requests', 2.50, '2026-04-01 00:00+00', 'sorry', 10, 'paid') AS bonus \gset
SELECT id = :'bonus' AS is_it, metric, trim_scale(amount) AS amount, used_amount, priority, expires_at, source, reason, granted_at, available
	FROM user_bonuses WHERE user_id = :'ben';
SELECT grant_bonus(p_user_id => :'ben', p_metric => 'admin_bonus', p_amount => 1) IS NOT NULL AS granted;
SELECT metric, priority, expires_at, source, reason FROM user_bonuses WHERE user_id = :'ben' AND metric = 'admin_bonus';
SELECT set_limit_override(:'ben', 'admin_calls', 300, NULL, 'pilot');
SELECT set_limit_override(:'ben', 'admin_calls', NULL, '2026-05-01 00:00+00');
SELECT clear_limit_override(:'ben', 'admin_calls', 'pilot over'), clear_limit_override(:'ben', 'admin_calls');
SELECT action, metric, attempted_amount = 2.5 AS of_2_5, reason, plan_limit, period,
		detail #- '{new,bonus_id}' #- '{new,amount}' AS detail, detail #>> '{new,bonus_id}' = :'bonus' AS names_bonus
	FROM quota_audit_log WHERE user_id = :'ben' AND action <> 'assign_plan' ORDER BY action, reason, plan_limit;
-- an act that fails leaves nothing
SELECT grant_bonus(:'ben', 'admin_calls', -5);
SELECT count(*) FROM user_bonuses WHERE user_id = :'ben';

-- Status: one row for each limit -----------------------------------------------------------------------

SELECT allowed FROM check_and_consume_quota(:'cat', 'admin_calls', 149.5);
SELECT allowed FROM check_and_consume_quota(:'cat', 'admin_seats', 3);
SELECT allowed FROM check_and_consume_quota(:'cat', 'admin_free', 5);
SELECT grant_bonus(:'cat', 'admin_calls', 20) IS NOT NULL AS granted, grant_bonus(:'cat', 'admin_free', 20) IS NOT NULL AS granted;
SELECT metric, period, plan, limit_amount, trim_scale(used) AS used, bonus_remaining, trim_scale(remaining) AS remaining, percent_used, severity, period_start, resets_at
	FROM get_user_quota_status(:'cat');
-- a subject without any limit has no row; the default plan counts here as well
SELECT count(*) FROM get_user_quota_status(:'nobody');
SET quota.default_plan = 'admin_big';
SELECT metric, plan, limit_amount, used, remaining FROM get_user_quota_status(:'nobody');
RESET quota.default_plan;
-- asking opens no account
SELECT count(*) FROM usage_tracking WHERE user_id = :'nobody';
-- a period that is over counts nothing
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT metric, period, used, severity, period_start FROM get_user_quota_status(:'cat') WHERE metric = 'admin_calls' ORDER BY period;

-- Severity and the near-limit list agree at every step ---------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
CREATE TEMP TABLE severities (step serial, used numeric, percent_used numeric, severity text, near numeric);
DO $$
DECLARE
	v_user	uuid := md5('admin dan')::uuid;
	v_step	numeric;
BEGIN
	FOREACH v_step IN ARRAY ARRAY[1, 158.998, 0.002, 0.004, 29.994, 0.002, 0.002, 9.996, 0.002] LOOP
		-- the minute's limit is out of the way
		PERFORM set_limit_override(v_user, 'admin_calls', NULL, p_period => 'minute');
		IF NOT (check_and_consume_quota(v_user, 'admin_calls', v_step)).allowed THEN
			RAISE EXCEPTION 'denied';
		END IF;
		INSERT INTO severities (used, percent_used, severity, near)
			SELECT trim_scale(s.used), s.percent_used, s.severity, n.percent_used
				FROM get_user_quota_status(v_user) AS s
				LEFT JOIN get_users_near_quota_limit(80) AS n
					ON n.user_id = v_user AND n.metric = s.metric AND n.period = s.period AND n.used = s.used AND n.limit_amount = s.limit_amount
				WHERE s.metric = 'admin_calls' AND s.period = 'month';
	END LOOP;
END
$$;
SELECT * FROM severities ORDER BY step;
-- the list, highest first; the threshold is inclusive
SELECT user_id = :'cat' AS cat, user_id = :'dan' AS dan, n.metric, period, trim_scale(used) AS used, limit_amount, percent_used
	FROM get_users_near_quota_limit() AS n WHERE n.metric LIKE 'admin%';
SELECT n.metric, period, percent_used FROM get_users_near_quota_limit(75) AS n WHERE n.metric LIKE 'admin%';
SELECT n.metric, period, percent_used FROM get_users_near_quota_limit(75.01) AS n WHERE n.metric LIKE 'admin%';
SELECT n.metric, period, percent_used FROM get_users_near_quota_limit(100) AS n WHERE n.metric LIKE 'admin%';
SELECT count(*) FROM get_users_near_quota_limit(100.01) AS n WHERE n.metric LIKE 'admin%';
-- overrides count in both: lowered below use, unlimited, nothing, expired
SELECT set_limit_override(:'dan', 'admin_calls', 100), set_limit_override(:'cat', 'admin_seats', 0), set_limit_override(:'cat', 'admin_calls', NULL, p_period => 'minute');
SELECT user_id = :'cat' AS cat, n.metric, period, limit_amount, percent_used FROM get_users_near_quota_limit() AS n WHERE n.metric LIKE 'admin%';
SELECT s.metric, s.period, s.limit_amount, s.percent_used, s.severity FROM unnest(ARRAY[:'cat', :'dan']::uuid[]) AS u, get_user_quota_status(u) AS s
	WHERE s.severity <> 'ok' ORDER BY percent_used DESC, 1, 2;
SELECT count(*) AS disagreements FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay']::uuid[]) AS u
	CROSS JOIN LATERAL get_user_quota_status(u) AS s
	FULL JOIN (SELECT * FROM get_users_near_quota_limit(80) WHERE metric LIKE 'admin%') AS n
		ON n.user_id = u AND n.metric = s.metric AND n.period = s.period
	WHERE (s.severity <> 'ok') IS DISTINCT FROM (n.user_id IS NOT NULL) OR n.percent_used <> s.percent_used;
-- accounts whose period is over are not near anything
SET quota.test_clock = '2027-03-10 12:00:00+00';
SELECT n.metric, period, limit_amount FROM get_users_near_quota_limit(1) AS n WHERE n.metric LIKE 'admin%';
SET quota.test_clock = '2026-03-10 12:00:00+00';
-- the default plan counts for accounts without a subscription
SET quota.default_plan = 'admin_big';
SELECT allowed FROM check_and_consume_quota(:'nobody', 'admin_calls', 900);
SELECT n.metric, used, limit_amount, percent_used FROM get_users_near_quota_limit(90) AS n WHERE user_id = :'nobody';
RESET quota.default_plan;
SELECT count(*) FROM get_users_near_quota_limit(90) AS n WHERE user_id = :'nobody';
-- the clock has stepped back: an account's time has not, nor has an override that ended in it
BEGIN;
SET LOCAL quota.default_plan = 'admin_big';
SELECT set_limit_override(:'nobody', 'admin_calls', 5000, '2026-04-10 11:59+00');
SET LOCAL quota.test_clock = '2026-04-10 12:10:00+00';
SELECT allowed, limit_amount, used FROM check_and_consume_quota(:'nobody', 'admin_calls', 900);
SET LOCAL quota.test_clock = '2026-04-10 11:50:00+00';
SELECT s.metric, limit_amount, percent_used FROM get_user_quota_status(:'nobody') AS s WHERE s.metric = 'admin_calls';
SELECT n.metric, limit_amount, percent_used FROM get_users_near_quota_limit(80) AS n WHERE user_id = :'nobody';
ROLLBACK;

-- The ledger: each fault is found, and told ----------------------------------------------------------------

SELECT grant_bonus(:'eve', 'admin_bonus', 5) IS NOT NULL AS granted;
SELECT allowed, bonus_used FROM check_and_consume_quota(:'eve', 'admin_bonus', 12);
SELECT allowed FROM check_and_consume_quota(:'eve', 'admin_calls', 7);
SET quota.test_clock = '2026-04-20 12:00:00+00';
SELECT allowed FROM check_and_consume_quota(:'eve', 'admin_calls', 3);
SELECT count(*) FROM verify_ledger(:'eve');
CREATE FUNCTION pg_temp.faults(p_user_id uuid, OUT metric text, OUT period text, OUT period_start timestamptz, OUT counter text, OUT recorded numeric, OUT expected numeric)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT metric, period, period_start, regexp_replace(counter, ' .*', ''), recorded, expected FROM quota.verify_ledger(p_user_id)
$$;
-- a counter that was tampered with, open and closed
BEGIN;
UPDATE usage_tracking SET used = used - 1 WHERE user_id = :'eve' AND metric = 'admin_calls' AND period = 'month';
SELECT * FROM pg_temp.faults(:'eve');
SELECT count(*) FROM verify_ledger() AS v WHERE v.user_id = :'eve';
SELECT count(*) FROM verify_ledger(:'ann');
ROLLBACK;
BEGIN;
UPDATE usage_history SET used = 0 WHERE user_id = :'eve' AND period = 'minute';
SELECT * FROM pg_temp.faults(:'eve');
ROLLBACK;
BEGIN;
UPDATE usage_tracking SET bonus_used = 0, used = 12 WHERE user_id = :'eve' AND metric = 'admin_bonus';
SELECT * FROM pg_temp.faults(:'eve');
ROLLBACK;
-- a bonus
BEGIN;
UPDATE user_bonuses SET used_amount = 1 WHERE user_id = :'eve';
SELECT * FROM pg_temp.faults(:'eve');
ROLLBACK;
-- an event that is missing, one too many, and one that is changed
BEGIN;
DELETE FROM usage_events WHERE user_id = :'eve' AND amount = 7;
SELECT * FROM pg_temp.faults(:'eve');
ROLLBACK;
BEGIN;
INSERT INTO usage_events (id, user_id, metric, kind, amount, bonus_used, period, rate_periods, created_at)
	VALUES (gen_random_uuid(), :'eve', 'admin_calls', 'consume', 1, 0, 'month', '{minute}', '2020-01-01');
SELECT * FROM pg_temp.faults(:'eve');
ROLLBACK;
BEGIN;
UPDATE usage_events SET created_at = '2026-04-05' WHERE user_id = :'eve' AND amount = 3;
SELECT * FROM pg_temp.faults(:'eve');
ROLLBACK;
-- what holds nothing, and was never granted beyond the limit
BEGIN;
UPDATE usage_tracking SET held = 3, overage = 5, cost = 7, held_cost = 2 WHERE user_id = :'eve' AND metric = 'admin_bonus';
UPDATE usage_history SET overage = 1, held = 4 WHERE user_id = :'eve' AND period = 'minute';
SELECT * FROM pg_temp.faults(:'eve');
ROLLBACK;
-- a bonus that is gone, also where all are looked at; an allocation of nothing
BEGIN;
DELETE FROM user_bonuses WHERE user_id = :'eve';
SELECT * FROM pg_temp.faults(:'eve');
SELECT v.user_id = :'eve' AS of_eve, regexp_replace(counter, ' .*', '') AS counter, recorded, expected FROM verify_ledger() AS v WHERE v.metric LIKE 'admin%';
ROLLBACK;
BEGIN;
INSERT INTO bonus_allocations (event_id, bonus_id, amount) VALUES ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002', 5);
SELECT v.user_id, v.metric, counter, recorded, expected FROM verify_ledger() AS v WHERE v.metric LIKE 'admin%' OR v.metric IS NULL;
ROLLBACK;
BEGIN;
INSERT INTO bonus_allocations (event_id, bonus_id, amount) SELECT '00000000-0000-0000-0000-000000000001', id, 2 FROM user_bonuses WHERE user_id = :'eve';
SELECT * FROM pg_temp.faults(:'eve');
ROLLBACK;
-- an allocation
BEGIN;
DELETE FROM bonus_allocations USING usage_events e WHERE event_id = e.id AND e.user_id = :'eve';
SELECT * FROM pg_temp.faults(:'eve');
ROLLBACK;
-- an account
BEGIN;
DELETE FROM usage_tracking WHERE user_id = :'eve' AND metric = 'admin_calls' AND period = 'month';
SELECT * FROM pg_temp.faults(:'eve');
ROLLBACK;
SELECT count(*) FROM verify_ledger() AS v WHERE v.metric LIKE 'admin%';

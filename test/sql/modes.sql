-- Modes of a limit: hard, soft with price and cap, shadow; and arrears, which the next grant repays.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET client_min_messages = warning;
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('modes_soft', 'counter'), ('modes_free', 'counter'), ('modes_capped', 'counter'), ('modes_thirds', 'counter'), ('modes_capzero', 'counter'),
	('modes_freecap', 'counter'), ('modes_rate', 'counter'), ('modes_shadow', 'counter'), ('modes_trial', 'counter'), ('modes_debts', 'counter'), ('modes_cheap', 'counter');
INSERT INTO plans (plan) VALUES ('modes_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price, spend_cap, repay_overage) VALUES
	('modes_plan', 'modes_soft', 'month', 10, 'soft', 2.5, NULL, true),
	('modes_plan', 'modes_free', 'month', 10, 'soft', NULL, NULL, true),
	('modes_plan', 'modes_capped', 'month', 10, 'soft', 2.5, 10, true),
	('modes_plan', 'modes_thirds', 'month', 10, 'soft', 3, 10, true),
	('modes_plan', 'modes_capzero', 'month', 10, 'soft', 2.5, 0, true),
	('modes_plan', 'modes_freecap', 'month', 10, 'soft', NULL, 0, true),
	('modes_plan', 'modes_rate', 'day', 5, 'soft', 7, 1, true),
	('modes_plan', 'modes_rate', 'month', 10, 'hard', NULL, NULL, true),
	('modes_plan', 'modes_shadow', 'month', 10, 'shadow', NULL, NULL, true),
	('modes_plan', 'modes_trial', 'minute', 2, 'shadow', NULL, NULL, true),
	('modes_plan', 'modes_trial', 'month', 10, 'hard', NULL, NULL, true),
	('modes_plan', 'modes_debts', 'month', 10, 'soft', 2.5, NULL, false),
	('modes_plan', 'modes_cheap', 'month', 1, 'soft', 0.000001, NULL, true);
SELECT md5('modes ann')::uuid AS ann, md5('modes ben')::uuid AS ben, md5('modes cat')::uuid AS cat,
	md5('modes dan')::uuid AS dan, md5('modes eve')::uuid AS eve, md5('modes fay')::uuid AS fay \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'modes_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay']::uuid[]) AS u;

\set answer 'allowed, reason, trim_scale(granted) AS granted, trim_scale(bonus_used) AS bonus_used, trim_scale(overage) AS overage, trim_scale(cost) AS cost, trim_scale(used) AS used, trim_scale(remaining) AS remaining'
CREATE FUNCTION pg_temp.accounts(p_user_id uuid, OUT metric text, OUT period text, OUT starts date, OUT closed boolean,
	OUT used numeric, OUT bonus_used numeric, OUT overage numeric, OUT cost numeric, OUT held numeric, OUT held_cost numeric)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT t.metric, t.period, t.period_start, false, trim_scale(t.used), trim_scale(t.bonus_used), trim_scale(t.overage), trim_scale(t.cost),
			trim_scale(t.held), trim_scale(t.held_cost)
		FROM quota.usage_tracking t WHERE t.user_id = p_user_id
	UNION ALL
	SELECT h.metric, h.period, h.period_start, true, trim_scale(h.used), trim_scale(h.bonus_used), trim_scale(h.overage), trim_scale(h.cost),
			trim_scale(h.held), trim_scale(h.held_cost)
		FROM quota.usage_history h WHERE h.user_id = p_user_id
	ORDER BY 1, 2, 3
$$;
CREATE FUNCTION pg_temp.ledger(p_user_id uuid, p_metric text, OUT kind text, OUT amount numeric, OUT bonus_used numeric, OUT overage numeric, OUT cost numeric)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT e.kind, trim_scale(e.amount), trim_scale(e.bonus_used), trim_scale(e.overage), trim_scale(e.cost)
		FROM quota.usage_events e WHERE e.user_id = p_user_id AND e.metric = p_metric ORDER BY e.created_at, e.kind, e.amount
$$;

-- Soft: beyond the limit it costs ------------------------------------------------------------

SELECT :answer FROM check_and_consume_quota(:'ann', 'modes_soft', 8);
-- the call that crosses the limit is split, and check_quota tells so beforehand, in the state before
SELECT :answer FROM check_quota(:'ann', 'modes_soft', 2);
SELECT :answer FROM check_quota(:'ann', 'modes_soft', 2.000001);
SELECT :answer FROM check_quota(:'ann', 'modes_soft', 5);
SELECT * FROM pg_temp.accounts(:'ann');
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT allowed, remaining, limit_amount, bonus_used, already_processed, reason, metric, period, used, bonus_remaining, overage, trim_scale(cost) AS cost,
	period_start, resets_at, retry_after, binding_user_id = :'ann' AS binds, granted, shortfall
	FROM check_and_consume_quota(:'ann', 'modes_soft', 5)
\gx
SET quota.test_clock = '2026-03-10 12:02:00+00';
SELECT :answer FROM check_and_consume_quota(:'ann', 'modes_soft', 0.2);
SELECT :answer FROM require_quota(:'ann', 'modes_soft', 1000000);
SELECT * FROM pg_temp.accounts(:'ann');
SELECT * FROM pg_temp.ledger(:'ann', 'modes_soft');
SELECT limit_amount, used, overage, trim_scale(cost) AS cost, remaining, percent_used, severity FROM get_user_quota_status(:'ann') WHERE metric = 'modes_soft';
SELECT attempted_amount, success, reason, plan_limit, current_usage, remaining FROM quota_audit_log WHERE user_id = :'ann' ORDER BY created_at, attempted_amount;
-- the next period begins with nothing of it
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT :answer FROM check_and_consume_quota(:'ann', 'modes_soft', 11);
SELECT * FROM pg_temp.accounts(:'ann');
-- a replay tells the cost again and charges nothing
SELECT :answer, already_processed FROM check_and_consume_quota(:'ann', 'modes_soft', 2, 'key');
SELECT :answer, already_processed FROM check_and_consume_quota(:'ann', 'modes_soft', 2, 'key');
SELECT overage, cost FROM pg_temp.accounts(:'ann') WHERE NOT closed;
-- without a price it is counted and costs nothing
SELECT :answer FROM check_and_consume_quota(:'ann', 'modes_free', 12.5);
SELECT :answer FROM check_quota(:'ann', 'modes_free', 1);
-- small prices and small amounts are exact
SELECT :answer FROM check_and_consume_quota(:'ann', 'modes_cheap', 1.000001);
SELECT :answer FROM check_and_consume_quota(:'ann', 'modes_cheap', 999999.999999);
SELECT overage, cost FROM pg_temp.accounts(:'ann') WHERE metric = 'modes_cheap';
-- a new price counts from the next unit on
UPDATE plan_limits SET overage_price = 4 WHERE plan = 'modes_plan' AND metric = 'modes_soft';
SELECT :answer FROM check_and_consume_quota(:'ann', 'modes_soft', 1);
SELECT overage, cost FROM pg_temp.accounts(:'ann') WHERE metric = 'modes_soft' AND NOT closed;
-- another mode counts from the next call on
UPDATE plan_limits SET mode = 'hard' WHERE plan = 'modes_plan' AND metric = 'modes_soft';
SELECT :answer FROM check_and_consume_quota(:'ann', 'modes_soft', 1);
UPDATE plan_limits SET mode = 'soft', overage_price = 2.5 WHERE plan = 'modes_plan' AND metric = 'modes_soft';
-- allowance, then bonuses, then overage
SELECT grant_bonus(:'fay', 'modes_soft', 3) IS NOT NULL AS granted;
SELECT :answer, bonus_remaining FROM check_quota(:'fay', 'modes_soft', 14);
SELECT :answer, bonus_remaining FROM check_and_consume_quota(:'fay', 'modes_soft', 12);
SELECT :answer, bonus_remaining FROM check_and_consume_quota(:'fay', 'modes_soft', 2);

-- The cap: hard at the exact unit ----------------------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT :answer FROM check_and_consume_quota(:'ben', 'modes_capped', 8);
-- 10 pays for 4 units at 2.5: 6 more fit, and not a millionth on top
SELECT :answer, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'ben', 'modes_capped', 6.000001);
SELECT :answer FROM check_quota(:'ben', 'modes_capped', 6);
SELECT :answer FROM check_and_consume_quota(:'ben', 'modes_capped', 5);
SELECT :answer FROM check_and_consume_quota(:'ben', 'modes_capped', 1.000001);
SELECT :answer FROM check_and_consume_quota(:'ben', 'modes_capped', 1);
SELECT :answer, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'ben', 'modes_capped', 0.000001);
-- the next month has 14, and never more
SELECT allowed, reason, justify_hours(retry_after) AS retry_after FROM check_quota(:'ben', 'modes_capped', 14);
SELECT allowed, reason, justify_hours(retry_after) AS retry_after FROM check_quota(:'ben', 'modes_capped', 14.000001);
SELECT require_quota(:'ben', 'modes_capped', 1);
SELECT success, reason, attempted_amount FROM quota_audit_log WHERE user_id = :'ben' AND NOT success ORDER BY attempted_amount;
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT :answer FROM check_and_consume_quota(:'ben', 'modes_capped', 14);
SELECT * FROM pg_temp.accounts(:'ben') WHERE metric = 'modes_capped';
-- a price that does not go into the cap: 3.333333 units at 3 cost 9.999999
SELECT :answer FROM consume_up_to(:'ben', 'modes_thirds', 100);
SELECT :answer FROM consume_up_to(:'ben', 'modes_thirds', 100);
-- up to the cap, from where the account stands
SELECT :answer FROM check_and_consume_quota(:'cat', 'modes_capped', 8);
SELECT :answer FROM consume_up_to(:'cat', 'modes_capped', 100);
-- a cap of 0 is a hard limit, for what costs something
SELECT :answer FROM check_and_consume_quota(:'ben', 'modes_capzero', 10.000001);
SELECT :answer FROM check_and_consume_quota(:'ben', 'modes_capzero', 10);
SELECT :answer FROM check_and_consume_quota(:'ben', 'modes_freecap', 12);
-- another cap counts at once: raised, lowered below what was spent, lifted
UPDATE plan_limits SET spend_cap = 12.5 WHERE plan = 'modes_plan' AND metric = 'modes_capped';
SELECT :answer FROM check_and_consume_quota(:'cat', 'modes_capped', 1);
UPDATE plan_limits SET spend_cap = 5 WHERE plan = 'modes_plan' AND metric = 'modes_capped';
SELECT :answer FROM check_and_consume_quota(:'cat', 'modes_capped', 0.000001);
UPDATE plan_limits SET spend_cap = NULL WHERE plan = 'modes_plan' AND metric = 'modes_capped';
SELECT :answer FROM check_and_consume_quota(:'cat', 'modes_capped', 1);
UPDATE plan_limits SET spend_cap = 10 WHERE plan = 'modes_plan' AND metric = 'modes_capped';
-- what is held counts as spent, until it is not held any more
SELECT :answer, reservation_id AS r FROM reserve_quota(:'dan', 'modes_capped', 13) \gset held_
\echo :held_allowed :held_reason :held_granted :held_overage :held_cost :held_used :held_remaining
SELECT :answer, retry_after FROM check_and_consume_quota(:'dan', 'modes_capped', 2);
SELECT :answer FROM check_quota(:'dan', 'modes_capped', 1);
-- settle above: as much as the cap allows, or none
SET quota.test_clock = '2026-04-01 00:01:00+00';
SELECT :answer, shortfall FROM settle_reservation(:'held_r', 14.5);
SELECT :answer FROM check_and_consume_quota(:'dan', 'modes_capped', 1);
SELECT * FROM pg_temp.accounts(:'dan');
-- a refund makes room under it
SELECT id AS e FROM usage_events WHERE user_id = :'dan' AND metric = 'modes_capped' AND kind = 'consume' \gset
SELECT :answer FROM refund_quota(:'e', 0.5);
SELECT :answer FROM check_and_consume_quota(:'dan', 'modes_capped', 0.500001);
SELECT :answer FROM check_and_consume_quota(:'dan', 'modes_capped', 0.5);

-- A soft rate window lets pass; it counts, and prices nothing -----------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT :answer, period FROM check_and_consume_quota(:'cat', 'modes_rate', 7);
SELECT :answer, period FROM check_and_consume_quota(:'cat', 'modes_rate', 4);
SELECT :answer, period FROM check_and_consume_quota(:'cat', 'modes_rate', 3);
SELECT * FROM pg_temp.accounts(:'cat') WHERE metric = 'modes_rate';

-- Shadow: lets pass and tells what it would have denied ---------------------------------------------------------

SELECT :answer FROM check_and_consume_quota(:'cat', 'modes_shadow', 8);
SELECT :answer FROM check_and_consume_quota(:'cat', 'modes_shadow', 2);
SELECT :answer FROM check_quota(:'cat', 'modes_shadow', 3);
SELECT :answer, retry_after FROM check_and_consume_quota(:'cat', 'modes_shadow', 3);
SELECT :answer FROM check_and_consume_quota(:'cat', 'modes_shadow', 1);
-- with a bonus, which would have paid and is left alone
SELECT grant_bonus(:'dan', 'modes_shadow', 3) IS NOT NULL AS granted;
SELECT allowed, reason, granted, bonus_used, used, bonus_remaining FROM check_and_consume_quota(:'dan', 'modes_shadow', 8);
SELECT allowed, reason, granted, bonus_used, used, bonus_remaining FROM check_and_consume_quota(:'dan', 'modes_shadow', 5);
SELECT allowed, reason, granted, bonus_used, used, bonus_remaining FROM check_and_consume_quota(:'dan', 'modes_shadow', 0.000001);
SELECT used_amount FROM user_bonuses WHERE user_id = :'dan';
SELECT metric, used, bonus_used, overage, cost FROM pg_temp.accounts(:'cat') WHERE metric = 'modes_shadow';
SELECT attempted_amount, success, reason, remaining FROM quota_audit_log WHERE user_id = :'cat' AND metric = 'modes_shadow' ORDER BY attempted_amount DESC;
-- it can be reserved, settled, refunded, taken up to
SELECT :answer, reservation_id AS r FROM reserve_quota(:'eve', 'modes_shadow', 12) \gset held_
\echo :held_allowed :held_reason :held_granted :held_overage :held_cost :held_used :held_remaining
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT :answer, event_id AS e FROM settle_reservation(:'held_r', 13) \gset settled_
\echo :settled_allowed :settled_granted :settled_overage :settled_used :settled_remaining
SELECT :answer FROM refund_quota(:'settled_e', 4);
SELECT allowed, granted, used, remaining FROM consume_up_to(:'eve', 'modes_shadow', 50);
-- a shadow rate window under a hard allowance
SELECT :answer, period FROM check_and_consume_quota(:'eve', 'modes_trial', 2);
SELECT :answer, period FROM check_quota(:'eve', 'modes_trial', 3);
SELECT :answer, period FROM check_and_consume_quota(:'eve', 'modes_trial', 3);
SELECT :answer, period FROM check_and_consume_quota(:'eve', 'modes_trial', 6);
SELECT :answer, period FROM check_and_consume_quota(:'eve', 'modes_trial', 5);
SELECT period, used FROM pg_temp.accounts(:'eve') WHERE metric = 'modes_trial';

-- Arrears: the next grant pays for the overage of the current period ---------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT :answer FROM check_and_consume_quota(:'eve', 'modes_soft', 18);
-- 5 of the 8 units that are owed
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT grant_bonus(:'eve', 'modes_soft', 5, NULL, 'A') IS NOT NULL AS granted;
SELECT used, bonus_used, overage, cost FROM pg_temp.accounts(:'eve') WHERE metric = 'modes_soft';
-- the other 3, and 2 are left
SET quota.test_clock = '2026-03-10 12:02:00+00';
SELECT grant_bonus(:'eve', 'modes_soft', 5, NULL, 'B') IS NOT NULL AS granted;
SELECT used, bonus_used, overage, cost FROM pg_temp.accounts(:'eve') WHERE metric = 'modes_soft';
SELECT reason, amount, used_amount FROM user_bonuses WHERE user_id = :'eve' ORDER BY reason;
SELECT * FROM pg_temp.ledger(:'eve', 'modes_soft');
SELECT :answer, bonus_remaining FROM check_and_consume_quota(:'eve', 'modes_soft', 3);
-- not for what an earlier period owes
SET quota.test_clock = '2026-04-10 12:00:00+00';
SELECT grant_bonus(:'eve', 'modes_soft', 5, NULL, 'C') IS NOT NULL AS granted;
SELECT starts, closed, used, bonus_used, overage, cost FROM pg_temp.accounts(:'eve') WHERE metric = 'modes_soft';
SELECT remaining, bonus_remaining FROM check_quota(:'eve', 'modes_soft');
-- makes room under a cap
SELECT :answer FROM check_and_consume_quota(:'eve', 'modes_capped', 14);
SELECT allowed, reason FROM check_quota(:'eve', 'modes_capped', 1);
SELECT grant_bonus(:'eve', 'modes_capped', 2, NULL, 'D') IS NOT NULL AS granted;
SELECT used, bonus_used, overage, cost FROM pg_temp.accounts(:'eve') WHERE metric = 'modes_capped';
SELECT :answer FROM check_and_consume_quota(:'eve', 'modes_capped', 2);
-- switched off
SELECT :answer FROM check_and_consume_quota(:'eve', 'modes_debts', 13);
SELECT grant_bonus(:'eve', 'modes_debts', 5, NULL, 'E') IS NOT NULL AS granted;
SELECT used, bonus_used, overage, cost FROM pg_temp.accounts(:'eve') WHERE metric = 'modes_debts';
SELECT :answer, bonus_remaining FROM check_and_consume_quota(:'eve', 'modes_debts', 1);

-- bn_aura: 200 scans, the 201st costs 60, a top-up of 100 costs 4,800 --------------------------------------------------------

BEGIN;
SET LOCAL quota.test_clock = '2026-05-10 12:00:00+00';
SELECT load_preset('bn_aura') > 0 AS loaded;
SELECT assign_plan(:'ann', 'professional'), assign_plan(:'ben', 'professional'), assign_plan(:'cat', 'professional');
SELECT :answer FROM check_and_consume_quota(:'ann', 'ai_scans', 200);
SELECT :answer FROM check_quota(:'ann', 'ai_scans');
SELECT :answer FROM check_and_consume_quota(:'ann', 'ai_scans');
-- for one that has used none: 300 are available
SELECT amount, unit_price, price, currency, total_available, already_processed FROM purchase_topup(:'ben', 'ai_scans', 100, 'receipt 1');
SELECT :answer FROM check_quota(:'ben', 'ai_scans', 300);
SELECT :answer FROM check_quota(:'ben', 'ai_scans', 301);
-- for the one that owes 1: it is paid first, 99 are left
SELECT price, total_available FROM purchase_topup(:'ann', 'ai_scans', 100, 'receipt 2');
SELECT metric, used, bonus_used, overage, cost FROM pg_temp.accounts(:'ann') WHERE metric = 'ai_scans';
-- 500 quick scans at 0.2 use exactly 100
SELECT count(*) FILTER (WHERE (o).allowed) AS granted, trim_scale(sum((o).granted)) AS sum, trim_scale(min((o).remaining)) AS remaining
	FROM (SELECT check_and_consume_quota(:'cat', 'ai_scans', 0.2) AS o FROM generate_series(1, 500) OFFSET 0) AS s;
SELECT used = 100 AS exactly, trim_scale(used) AS used FROM usage_tracking WHERE user_id = :'cat' AND metric = 'ai_scans';
SELECT v.metric, v.period, counter, recorded, expected FROM unnest(ARRAY[:'ann', :'ben', :'cat']::uuid[]) AS u, verify_ledger(u) AS v WHERE v.metric = 'ai_scans';
ROLLBACK;

-- What cannot be a limit ----------------------------------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.sqlstate_of(p_set text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'UPDATE quota.plan_limits SET ' || p_set || ' WHERE plan = ''modes_plan'' AND metric = ''modes_soft''';
	RAISE EXCEPTION 'fine' USING ERRCODE = 'QT000';
EXCEPTION WHEN OTHERS THEN
	RETURN CASE SQLSTATE WHEN 'QT000' THEN 'no error' ELSE SQLSTATE END;
END
$$;
SELECT change, pg_temp.sqlstate_of(change) AS sqlstate FROM unnest(ARRAY['mode = ''loose''', 'mode = NULL', 'mode = ''SOFT''', 'overage_price = -1', 'overage_price = 0',
		'overage_price = ''NaN''', 'overage_price = ''Infinity''', 'overage_price = 1e12', 'overage_price = 999999999999.999999999999', 'overage_price = 1e-12', 'overage_price = 1e-13',
		'spend_cap = -1', 'spend_cap = ''NaN''', 'spend_cap = ''Infinity''', 'spend_cap = 1e12', 'spend_cap = 1e-13', 'spend_cap = NULL', 'repay_overage = NULL'])
	WITH ORDINALITY AS u (change, n) ORDER BY n;

-- The books -----------------------------------------------------------------------------------------------------------------------------

SELECT v.metric, v.period, counter, recorded, expected
	FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay']::uuid[]) AS u, verify_ledger(u) AS v;

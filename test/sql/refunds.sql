-- Refunds: what goes back, from which source, into which period, and how often.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('refunds_calls', 'counter'), ('refunds_soft', 'counter'), ('refunds_windows', 'counter'), ('refunds_free', 'counter'),
	('refunds_seats', 'gauge');
INSERT INTO metric_aliases VALUES ('refunds_requests', 'refunds_calls');
INSERT INTO plans (plan) VALUES ('refunds_plan'), ('refunds_yearly'), ('refunds_none');
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES
	('refunds_plan', 'refunds_calls', 'month', 10, 'hard', NULL),
	('refunds_plan', 'refunds_soft', 'month', 10, 'soft', 2.5),
	('refunds_plan', 'refunds_windows', 'month', 100, 'hard', NULL),
	('refunds_plan', 'refunds_windows', 'day', 20, 'hard', NULL),
	('refunds_plan', 'refunds_free', 'month', NULL, 'hard', NULL),
	('refunds_plan', 'refunds_seats', 'lifetime', 5, 'hard', NULL),
	('refunds_yearly', 'refunds_calls', 'year', 100, 'hard', NULL);
SELECT md5('refunds ann')::uuid AS ann, md5('refunds ben')::uuid AS ben, md5('refunds cat')::uuid AS cat,
	md5('refunds dan')::uuid AS dan, md5('refunds eve')::uuid AS eve, md5('refunds fay')::uuid AS fay,
	md5('refunds gus')::uuid AS gus, md5('refunds hal')::uuid AS hal, md5('refunds ida')::uuid AS ida \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'refunds_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus', :'hal', :'ida']::uuid[]) AS u;

\set moved 'allowed, reason, trim_scale(granted) AS granted, trim_scale(bonus_used) AS bonus_used, trim_scale(overage) AS overage, trim_scale(cost) AS cost, trim_scale(used) AS used, trim_scale(remaining) AS remaining'

CREATE FUNCTION pg_temp.accounts(p_user_id uuid, OUT metric text, OUT period text, OUT starts date, OUT closed boolean,
	OUT used numeric, OUT bonus_used numeric, OUT overage numeric, OUT cost numeric) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT t.metric, t.period, t.period_start, false, trim_scale(t.used), trim_scale(t.bonus_used), trim_scale(t.overage), trim_scale(t.cost)
		FROM quota.usage_tracking t WHERE t.user_id = p_user_id
	UNION ALL
	SELECT h.metric, h.period, h.period_start, true, trim_scale(h.used), trim_scale(h.bonus_used), trim_scale(h.overage), trim_scale(h.cost)
		FROM quota.usage_history h WHERE h.user_id = p_user_id
	ORDER BY 1, 2, 3
$$;
-- by time, then as a ledger is read: what was taken before what was given back
CREATE FUNCTION pg_temp.ledger(p_user_id uuid, OUT kind text, OUT amount numeric, OUT bonus_used numeric, OUT overage numeric,
	OUT cost numeric, OUT requested numeric, OUT effective_at timestamptz, OUT of_kind text) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT e.kind, trim_scale(e.amount), trim_scale(e.bonus_used), trim_scale(e.overage), trim_scale(e.cost), trim_scale(e.requested),
			e.effective_at, (SELECT o.kind FROM quota.usage_events o WHERE o.id = e.refers_to)
		FROM quota.usage_events e WHERE e.user_id = p_user_id ORDER BY e.created_at, e.amount DESC
$$;
CREATE FUNCTION pg_temp.lines(p_user_id uuid, OUT kind text, OUT event numeric, OUT bonus text, OUT amount numeric, OUT expired boolean)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT e.kind, trim_scale(e.amount), b.reason, trim_scale(a.amount), a.expired
		FROM quota.usage_events e JOIN quota.bonus_allocations a ON a.event_id = e.id LEFT JOIN quota.user_bonuses b ON b.id = a.bonus_id
		WHERE e.user_id = p_user_id ORDER BY e.created_at, e.amount DESC, b.reason
$$;
CREATE FUNCTION pg_temp.bonuses(p_user_id uuid, OUT bonus text, OUT amount numeric, OUT used numeric, OUT available boolean)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT b.reason, trim_scale(b.amount), trim_scale(b.used_amount), b.available
		FROM quota.user_bonuses b WHERE b.user_id = p_user_id ORDER BY b.reason
$$;

-- Part of an event, then the rest, then no more ---------------------------------------

SELECT event_id AS e FROM check_and_consume_quota(:'ann', 'refunds_calls', 4) \gset
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT allowed, remaining, limit_amount, bonus_used, already_processed, reason, metric, period, used, bonus_remaining, overage, cost,
	period_start, resets_at, retry_after, event_id <> :'e' AS new_event, binding_user_id = :'ann' AS binds, granted, reservation_id, shortfall
	FROM refund_quota(:'e', 1, 'answer was cut off')
\gx
SET quota.test_clock = '2026-03-10 12:02:00+00';
SELECT :moved FROM refund_quota(:'e');
-- nothing is left of it, not a millionth
SELECT refund_quota(:'e');
SELECT refund_quota(:'e', 0.000001);
SELECT * FROM pg_temp.accounts(:'ann');
SELECT * FROM pg_temp.ledger(:'ann');
SELECT metadata FROM usage_events WHERE user_id = :'ann' ORDER BY created_at;
SELECT attempted_amount, success, reason, plan_limit, current_usage, remaining, period, action, detail FROM quota_audit_log
	WHERE user_id = :'ann' ORDER BY created_at;
-- and each line of the log names its event
SELECT a.action, e.kind FROM quota_audit_log a JOIN usage_events e ON e.id = a.event_id WHERE a.user_id = :'ann' ORDER BY a.created_at;

-- What went back can be had again, and more than that cannot
SELECT event_id AS e FROM check_and_consume_quota(:'ann', 'refunds_requests', 10) \gset
SELECT allowed, remaining FROM check_and_consume_quota(:'ann', 'refunds_calls', 1);
SELECT refund_quota(:'e', 10.000001);
SELECT refund_quota(:'e', 11);
SELECT :moved FROM refund_quota(:'e', 0.2);
SELECT allowed, trim_scale(remaining) AS remaining, reason FROM check_and_consume_quota(:'ann', 'refunds_calls', 0.200001);
SELECT allowed, trim_scale(remaining) AS remaining, reason FROM check_and_consume_quota(:'ann', 'refunds_calls', 0.2);
-- a repeat is another refund as long as something is left (9.8): two of 4, and the third is too much
SELECT :moved FROM refund_quota(:'e', 4);
SELECT :moved FROM refund_quota(:'e', 4);
SELECT refund_quota(:'e', 4);
SELECT :moved FROM refund_quota(:'e');
SELECT * FROM pg_temp.accounts(:'ann');

-- Last source first: overage, bonuses in reverse, allowance ------------------------------

SELECT grant_bonus(:'ben', 'refunds_soft', 3, NULL, 'A', 10) IS NOT NULL AND grant_bonus(:'ben', 'refunds_soft', 4, NULL, 'B', 20) IS NOT NULL AS granted;
-- 20 = 10 allowance + 3 of A + 4 of B + 3 overage at 2.5
SELECT event_id AS e, :moved FROM check_and_consume_quota(:'ben', 'refunds_soft', 20) \gset got_
SELECT :'got_granted' AS granted, :'got_bonus_used' AS bonus_used, :'got_overage' AS overage, :'got_cost' AS cost;
SET quota.test_clock = '2026-03-10 12:03:00+00';
-- 2 of the overage; then the last of it and 2 of B; then 2 of B and 1 of A; then 2 of A and 7 of the allowance
SELECT :moved FROM refund_quota(:'got_e', 2);
SET quota.test_clock = '2026-03-10 12:04:00+00';
SELECT :moved FROM refund_quota(:'got_e', 3);
SELECT * FROM pg_temp.bonuses(:'ben');
SET quota.test_clock = '2026-03-10 12:05:00+00';
SELECT :moved FROM refund_quota(:'got_e', 3);
SELECT * FROM pg_temp.bonuses(:'ben');
SELECT * FROM pg_temp.accounts(:'ben');
SET quota.test_clock = '2026-03-10 12:06:00+00';
SELECT :moved FROM refund_quota(:'got_e', 9);
SELECT refund_quota(:'got_e', 3.000001);
SET quota.test_clock = '2026-03-10 12:07:00+00';
SELECT :moved FROM refund_quota(:'got_e');
SELECT refund_quota(:'got_e', 0.000001);
SELECT * FROM pg_temp.bonuses(:'ben');
SELECT * FROM pg_temp.accounts(:'ben');
SELECT * FROM pg_temp.ledger(:'ben');
SELECT * FROM pg_temp.lines(:'ben');
-- of two events each gives back its own
SELECT event_id AS e1 FROM check_and_consume_quota(:'ben', 'refunds_soft', 12) \gset
SET quota.test_clock = '2026-03-10 12:08:00+00';
SELECT event_id AS e2 FROM check_and_consume_quota(:'ben', 'refunds_soft', 7) \gset
SET quota.test_clock = '2026-03-10 12:09:00+00';
-- the first has 10 and 2 of A, the second 1 of A, 4 of B, 2 overage: of the first go 2 to A, 1 to the allowance
SELECT :moved FROM refund_quota(:'e1', 3);
SELECT * FROM pg_temp.bonuses(:'ben');
SET quota.test_clock = '2026-03-10 12:10:00+00';
SELECT :moved FROM refund_quota(:'e2');
SET quota.test_clock = '2026-03-10 12:11:00+00';
SELECT :moved FROM refund_quota(:'e1');
SELECT * FROM pg_temp.bonuses(:'ben');
SELECT * FROM pg_temp.accounts(:'ben');

-- A bonus that cannot be used any more gets its units back, but does not live again ----------

SELECT grant_bonus(:'cat', 'refunds_calls', 5, '2026-03-10 18:00+00', 'A expires') IS NOT NULL AS granted;
SELECT event_id AS e FROM check_and_consume_quota(:'cat', 'refunds_calls', 14) \gset
-- up to the instant it is of use
SET quota.test_clock = '2026-03-10 17:59:59.999999+00';
SELECT :moved, bonus_remaining FROM refund_quota(:'e', 1);
SET quota.test_clock = '2026-03-10 18:00:00+00';
SELECT :moved, bonus_remaining FROM refund_quota(:'e', 1);
SET quota.test_clock = '2026-03-10 18:01:00+00';
-- 2 of the bonus are lost, 2 of the allowance are not
SELECT :moved, bonus_remaining FROM refund_quota(:'e', 4);
SELECT * FROM pg_temp.lines(:'cat');
SELECT bonus, amount, used FROM pg_temp.bonuses(:'cat');
SELECT allowed, remaining FROM check_and_consume_quota(:'cat', 'refunds_calls', 3);
SELECT allowed, remaining FROM check_and_consume_quota(:'cat', 'refunds_calls', 2);
-- void is the same
SELECT grant_bonus(:'dan', 'refunds_calls', 5, NULL, 'A void') IS NOT NULL AS granted;
SELECT event_id AS e FROM check_and_consume_quota(:'dan', 'refunds_calls', 12) \gset
SELECT voided_at IS NULL AS was_valid FROM user_bonuses WHERE user_id = :'dan';
UPDATE user_bonuses SET voided_at = '2026-03-10 18:01+00' WHERE user_id = :'dan';
SET quota.test_clock = '2026-03-10 18:02:00+00';
SELECT :moved, bonus_remaining FROM refund_quota(:'e', 3);
SELECT * FROM pg_temp.lines(:'dan');
SELECT * FROM pg_temp.bonuses(:'dan');
-- and so is gone
BEGIN;
SELECT grant_bonus(:'dan', 'refunds_soft', 5, NULL, 'B gone') IS NOT NULL AS granted;
SELECT event_id AS e FROM check_and_consume_quota(:'dan', 'refunds_soft', 12) \gset
DELETE FROM user_bonuses WHERE user_id = :'dan' AND reason = 'B gone';
SET quota.test_clock = '2026-03-10 18:03:00+00';
SELECT :moved, bonus_remaining FROM refund_quota(:'e', 3);
SELECT * FROM pg_temp.lines(:'dan') WHERE bonus IS NULL;
ROLLBACK;

-- Into the event's own period ------------------------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT grant_bonus(:'eve', 'refunds_soft', 2, NULL, 'A') IS NOT NULL AS granted;
SELECT event_id AS e FROM check_and_consume_quota(:'eve', 'refunds_soft', 16) \gset
SET quota.test_clock = '2026-04-02 12:00:00+00';
-- closed by a call of April
SELECT :moved FROM check_and_consume_quota(:'eve', 'refunds_soft', 2);
SELECT * FROM pg_temp.accounts(:'eve');
SET quota.test_clock = '2026-04-03 12:00:00+00';
-- 4 overage, 1 of the bonus go back to March; the answer tells the present state, in which the bonus can be used again
SELECT :moved, bonus_remaining, period_start, resets_at FROM refund_quota(:'e', 5);
SELECT * FROM pg_temp.accounts(:'eve');
SET quota.test_clock = '2026-05-03 12:00:00+00';
-- two periods later; the account, which it does not concern, stays where it is
SELECT :moved, bonus_remaining, period_start, resets_at FROM refund_quota(:'e', 2);
SELECT * FROM pg_temp.accounts(:'eve');
SELECT refund_quota(:'e', 9.000001);
SELECT * FROM pg_temp.ledger(:'eve');
-- closed by the refund
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT event_id AS e FROM check_and_consume_quota(:'fay', 'refunds_calls', 6) \gset
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT :moved, period_start FROM refund_quota(:'e', 4);
SELECT * FROM pg_temp.accounts(:'fay');
SELECT used, limit_amount, closed_at FROM usage_history WHERE user_id = :'fay';
-- the last instant of the period is in the period
SET quota.test_clock = '2026-03-31 23:59:59.999999+00';
SELECT event_id AS e FROM check_and_consume_quota(:'gus', 'refunds_calls', 6) \gset
SELECT :moved, period_start FROM refund_quota(:'e', 1);
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT :moved, period_start FROM refund_quota(:'e', 1);
SELECT * FROM pg_temp.accounts(:'gus');

-- Several windows: each in the period of its own ---------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT event_id AS e FROM check_and_consume_quota(:'gus', 'refunds_windows', 15) \gset
SELECT allowed, period, remaining FROM check_and_consume_quota(:'gus', 'refunds_windows', 6);
SELECT :moved, period FROM refund_quota(:'e', 5);
SELECT allowed, period, remaining FROM check_and_consume_quota(:'gus', 'refunds_windows', 6);
SET quota.test_clock = '2026-03-11 12:00:00+00';
SELECT :moved, period FROM check_and_consume_quota(:'gus', 'refunds_windows', 19);
SELECT :moved, period FROM refund_quota(:'e', 4);
SELECT * FROM pg_temp.accounts(:'gus') WHERE metric = 'refunds_windows';

-- Where the plan has changed, the account that was charged is the one that gets it back -------------------

SELECT event_id AS e FROM check_and_consume_quota(:'hal', 'refunds_calls', 4) \gset
SELECT assign_plan(:'hal', 'refunds_yearly');
SELECT :moved, period, limit_amount FROM refund_quota(:'e', 1);
SELECT * FROM pg_temp.accounts(:'hal') WHERE used > 0;
SELECT assign_plan(:'hal', 'refunds_plan');
SELECT :moved, period FROM refund_quota(:'e', 1);
SELECT assign_plan(:'hal', 'refunds_none');
SELECT :moved, period, limit_amount FROM refund_quota(:'e', 1);
SELECT refund_quota(:'e', 2);
SELECT * FROM pg_temp.accounts(:'hal') WHERE used > 0;
SELECT assign_plan(:'hal', 'refunds_plan');
-- the same after a reset, which closes the periods at once
SELECT event_id AS e FROM check_and_consume_quota(:'fay', 'refunds_windows', 15) \gset
SELECT metric, old_value, new_value FROM reset_user_quota(:'fay', 'refunds_windows', 'test');
SELECT :moved, period FROM refund_quota(:'e', 5);
SELECT period, closed, used FROM pg_temp.accounts(:'fay') WHERE metric = 'refunds_windows' ORDER BY period, closed DESC;

-- Without a limit it counts back, too
SELECT event_id AS e FROM check_and_consume_quota(:'hal', 'refunds_free', 1000) \gset
SELECT :moved FROM refund_quota(:'e', 1.5);

-- Overage that a bonus has paid for since goes back to that bonus ---------------------------------------

SELECT event_id AS e FROM check_and_consume_quota(:'ida', 'refunds_soft', 13) \gset
SELECT grant_bonus(:'ida', 'refunds_soft', 5, NULL, 'A') IS NOT NULL AS granted;
-- grant_bonus may have done so by itself; then nothing is left to do here
SELECT coalesce(repay_overage(:'ida', 'refunds_soft'), 0) IN (0, 3) AS repaid;
SELECT * FROM pg_temp.accounts(:'ida');
SELECT bonus, amount, used FROM pg_temp.bonuses(:'ida');
SET quota.test_clock = '2026-03-11 12:01:00+00';
-- 2, the third one and one of the allowance, then 9 of the allowance
SELECT :moved, bonus_remaining FROM refund_quota(:'e', 2);
SET quota.test_clock = '2026-03-11 12:02:00+00';
SELECT :moved, bonus_remaining FROM refund_quota(:'e', 2);
SET quota.test_clock = '2026-03-11 12:03:00+00';
SELECT :moved, bonus_remaining FROM refund_quota(:'e');
SELECT refund_quota(:'e', 0.000001);
SELECT * FROM pg_temp.accounts(:'ida');
SELECT bonus, amount, used FROM pg_temp.bonuses(:'ida');

-- A gauge gives back what it has -----------------------------------------------------------------------------

SELECT event_id AS e FROM check_and_consume_quota(:'ida', 'refunds_seats', 4) \gset
SELECT granted FROM release_quota(:'ida', 'refunds_seats', 3);
SELECT refund_quota(:'e', 2);
SELECT :moved FROM refund_quota(:'e', 1);
SELECT refund_quota(:'e', 1);

-- Which events --------------------------------------------------------------------------------------------------

SET quota.test_clock = '2026-03-12 12:00:00+00';
SELECT event_id AS refund FROM refund_quota((SELECT event_id FROM check_and_consume_quota(:'ann', 'refunds_free', 5)), 1) \gset
SELECT refund_quota(:'refund');
SELECT refund_quota(event_id) FROM (SELECT event_id FROM set_gauge(:'ann', 'refunds_seats', 2) OFFSET 0) AS s;
SELECT refund_quota(event_id) FROM (SELECT event_id FROM release_quota(:'ann', 'refunds_seats', 1) OFFSET 0) AS s;
SELECT reservation_id AS r FROM reserve_quota(:'ann', 'refunds_free', 5) \gset
SELECT refund_quota(:'r');
SELECT event_id AS settle FROM settle_reservation(:'r', 3) \gset
SELECT refund_quota(:'r');
-- what was settled, but no more than was settled
SELECT refund_quota(:'settle', 4);
SELECT :moved FROM refund_quota(:'settle', 1);
SELECT :moved FROM refund_quota(:'settle');
SELECT reservation_id AS r FROM reserve_quota(:'ann', 'refunds_free', 5) \gset
SELECT event_id AS cancel FROM cancel_reservation(:'r') \gset
SELECT refund_quota(:'cancel');
-- a part that was granted, but no more than that
SELECT event_id AS e FROM consume_up_to(:'ann', 'refunds_calls', 12) \gset
SELECT refund_quota(:'e', 12);
SELECT :moved FROM refund_quota(:'e');
-- each of several metrics of one call
SELECT event_id AS e FROM consume_quotas(:'ann', '{"refunds_calls": 2, "refunds_soft": 3}') WHERE metric = 'refunds_soft' \gset
SELECT :moved, metric FROM refund_quota(:'e');
SELECT trim_scale(used) AS used FROM check_quota(:'ann', 'refunds_calls');

-- The key of the event answers as it did: the call was made, what came later is another matter -----------------------

SELECT event_id AS e, :moved, already_processed FROM check_and_consume_quota(:'dan', 'refunds_free', 7, 'key') \gset first_
SELECT :moved FROM refund_quota(:'first_e', 6);
SELECT :moved, already_processed, event_id = :'first_e' AS same FROM check_and_consume_quota(:'dan', 'refunds_free', 7, 'key');
SELECT allowed, reason FROM check_and_consume_quota(:'dan', 'refunds_free', 1, 'key');
SELECT trim_scale(used) AS used FROM check_quota(:'dan', 'refunds_free');

-- Rolled back with its transaction
BEGIN;
SELECT :moved FROM refund_quota(:'first_e', 1);
ROLLBACK;
SELECT trim_scale(used) AS used FROM check_quota(:'dan', 'refunds_free');

-- What cannot be a refund ------------------------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.sqlstate_of(p_call text, p_event uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SELECT ' || p_call USING p_event;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
SELECT count(*) AS before FROM usage_events \gset
SELECT count(*) AS log_before FROM quota_audit_log \gset
SELECT arguments, pg_temp.sqlstate_of('refund_quota(' || arguments || ')', :'first_e') AS sqlstate
	FROM unnest(ARRAY['NULL', 'NULL, 1', $$'00000000-0000-7000-8000-000000000000'$$, $$'00000000-0000-7000-8000-000000000000', 1$$, $$'not a uuid'$$,
		'$1, 0', '$1, 0.000', '$1, -1', '$1, -0.000001', $$ $1, 'NaN'$$, $$ $1, 'Infinity'$$, $$ $1, '-Infinity'$$, '$1, 1e-7', '$1, 1.0000001',
		'$1, 1e18', '$1, 1e1000', $$ $1, 'one'$$, '$1, 2', '$1, 999999999999999999.999999']) WITH ORDINALITY AS u (arguments, n) ORDER BY n;
-- nothing of it was written
SELECT count(*) - :before AS events FROM usage_events;
SELECT count(*) - :log_before AS log FROM quota_audit_log;
BEGIN READ ONLY;
SELECT refund_quota(:'first_e', 1);
ROLLBACK;
-- trailing zeros are no decimals; no reason, and an empty one
SELECT :moved FROM refund_quota(:'first_e', 0.5000000, NULL);
SELECT :moved FROM refund_quota(p_event_id => :'first_e', p_amount => 0.25, p_reason => '');

-- The books --------------------------------------------------------------------------------------------------------------

SELECT v.metric, v.period, counter, recorded, expected
	FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus', :'hal', :'ida']::uuid[]) AS u, verify_ledger(u) AS v;

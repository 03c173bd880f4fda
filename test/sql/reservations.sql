-- Reservations: set aside, settled, canceled, lapsed; once, and in the right period.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('reservations_scans', 'counter'), ('reservations_soft', 'counter'), ('reservations_bonus', 'counter'), ('reservations_rate', 'counter'),
	('reservations_free', 'counter'), ('reservations_unlisted', 'counter'), ('reservations_seats', 'gauge');
INSERT INTO metric_aliases VALUES ('reservations_images', 'reservations_scans');
INSERT INTO plans (plan) VALUES ('reservations_plan'), ('reservations_none');
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES
	('reservations_plan', 'reservations_scans', 'month', 100, 'hard', NULL),
	('reservations_plan', 'reservations_soft', 'month', 10, 'soft', 2),
	('reservations_plan', 'reservations_bonus', 'month', 10, 'hard', NULL),
	('reservations_plan', 'reservations_rate', 'month', 100, 'hard', NULL),
	('reservations_plan', 'reservations_rate', 'hour', 20, 'hard', NULL),
	('reservations_plan', 'reservations_free', 'month', NULL, 'hard', NULL),
	('reservations_plan', 'reservations_seats', 'lifetime', 3, 'hard', NULL);
SELECT md5('reservations ann')::uuid AS ann, md5('reservations ben')::uuid AS ben, md5('reservations cat')::uuid AS cat,
	md5('reservations dan')::uuid AS dan, md5('reservations eve')::uuid AS eve, md5('reservations fay')::uuid AS fay,
	md5('reservations gus')::uuid AS gus, md5('reservations hal')::uuid AS hal, md5('reservations ida')::uuid AS ida,
	md5('reservations joe')::uuid AS joe, md5('reservations kim')::uuid AS kim, md5('reservations lee')::uuid AS lee,
	md5('reservations mia')::uuid AS mia, md5('reservations ned')::uuid AS ned \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'reservations_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus', :'hal', :'ida', :'joe', :'kim', :'lee', :'mia', :'ned']::uuid[]) AS u;

\set moved 'allowed, reason, trim_scale(granted) AS granted, trim_scale(bonus_used) AS bonus_used, trim_scale(overage) AS overage, trim_scale(cost) AS cost, trim_scale(used) AS used, trim_scale(remaining) AS remaining'
\set settled 'allowed, already_processed AS again, reason, trim_scale(granted) AS granted, trim_scale(bonus_used) AS bonus_used, trim_scale(overage) AS overage, trim_scale(cost) AS cost, trim_scale(used) AS used, trim_scale(remaining) AS remaining, trim_scale(shortfall) AS shortfall'

CREATE FUNCTION pg_temp.accounts(p_user_id uuid, OUT metric text, OUT period text, OUT starts timestamptz, OUT closed boolean,
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
CREATE FUNCTION pg_temp.ledger(p_user_id uuid, OUT kind text, OUT amount numeric, OUT bonus_used numeric, OUT overage numeric,
	OUT cost numeric, OUT requested numeric, OUT held numeric, OUT held_bonus numeric, OUT held_overage numeric, OUT held_cost numeric,
	OUT effective_at timestamptz, OUT of_kind text) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT e.kind, trim_scale(e.amount), trim_scale(e.bonus_used), trim_scale(e.overage), trim_scale(e.cost), trim_scale(e.requested),
			trim_scale(e.held), trim_scale(nullif(e.held_bonus, 0)), trim_scale(nullif(e.held_overage, 0)), trim_scale(nullif(e.held_cost, 0)),
			e.effective_at, (SELECT o.kind FROM quota.usage_events o WHERE o.id = e.refers_to)
		FROM quota.usage_events e WHERE e.user_id = p_user_id ORDER BY e.created_at, e.kind DESC, e.amount, e.held
$$;
CREATE FUNCTION pg_temp.lines(p_user_id uuid, OUT kind text, OUT bonus text, OUT amount numeric, OUT held numeric, OUT expired boolean)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT e.kind, b.reason, trim_scale(a.amount), trim_scale(a.held), a.expired
		FROM quota.usage_events e JOIN quota.bonus_allocations a ON a.event_id = e.id LEFT JOIN quota.user_bonuses b ON b.id = a.bonus_id
		WHERE e.user_id = p_user_id ORDER BY e.created_at, e.kind DESC, b.reason
$$;
CREATE FUNCTION pg_temp.bonuses(p_user_id uuid, OUT bonus text, OUT amount numeric, OUT used numeric, OUT held numeric)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT b.reason, trim_scale(b.amount), trim_scale(b.used_amount), trim_scale(b.held_amount)
		FROM quota.user_bonuses b WHERE b.user_id = p_user_id ORDER BY b.reason
$$;

-- Reserve, settle below: the rest returns -------------------------------------------------

SELECT allowed, remaining, limit_amount, bonus_used, already_processed, reason, metric, period, used, bonus_remaining, overage, cost,
	period_start, resets_at, retry_after, event_id = reservation_id AS is_event, binding_user_id = :'ann' AS binds, granted, shortfall,
	reservation_id AS r
	FROM reserve_quota(:'ann', 'reservations_images', 4) \gset got_
\echo :got_allowed :got_remaining :got_limit_amount :got_bonus_used :got_already_processed :got_reason :got_metric :got_period :got_used :got_bonus_remaining :got_overage :got_cost
\echo :got_period_start :got_resets_at :got_retry_after :got_is_event :got_binds :got_granted :got_shortfall
-- nobody else gets them
SELECT allowed, remaining, used FROM check_quota(:'ann', 'reservations_scans', 97);
SELECT allowed, remaining, used FROM check_quota(:'ann', 'reservations_scans', 96);
SELECT metric, used, remaining FROM get_user_quota_status(:'ann') WHERE metric = 'reservations_scans';
SELECT * FROM pg_temp.accounts(:'ann');
SELECT holds_expire_at FROM usage_tracking WHERE user_id = :'ann';
SELECT kind, amount, held, expires_at, created_at, expires_at - created_at AS ttl FROM usage_events WHERE user_id = :'ann';
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT allowed, remaining, limit_amount, bonus_used, already_processed, reason, metric, period, used, bonus_remaining, overage, cost,
	period_start, resets_at, retry_after, event_id <> reservation_id AS new_event, binding_user_id = :'ann' AS binds, granted,
	reservation_id = :'got_r' AS of_it, shortfall
	FROM settle_reservation(:'got_r', 3)
\gx
SELECT * FROM pg_temp.accounts(:'ann');
-- the same again has the same answer, also later, when other things have happened; anything else is refused
SELECT allowed FROM check_and_consume_quota(:'ann', 'reservations_scans', 10);
SET quota.test_clock = '2026-03-10 12:30:00+00';
SELECT :settled FROM settle_reservation(:'got_r', 3);
SELECT settle_reservation(:'got_r', 4);
SELECT settle_reservation(:'got_r', 2.999999);
SELECT settle_reservation(:'got_r', 0);
SELECT settle_reservation(:'got_r');
SELECT cancel_reservation(:'got_r');
SELECT attempted_amount, success, reason, plan_limit, current_usage, remaining, period, action FROM quota_audit_log
	WHERE user_id = :'ann' ORDER BY created_at, action;

-- Cancel
SELECT reservation_id AS r FROM reserve_quota(:'ann', 'reservations_scans', 5) \gset
SET quota.test_clock = '2026-03-10 12:31:00+00';
SELECT :settled, reservation_id = :'r' AS of_it FROM cancel_reservation(:'r');
SELECT :settled FROM cancel_reservation(:'r');
SELECT settle_reservation(:'r', 5);
SELECT settle_reservation(:'r', 0);
SELECT settle_reservation(:'r');
-- Settle all of it: by not saying how much, or by saying so
SELECT reservation_id AS r FROM reserve_quota(:'ann', 'reservations_scans', 2.5) \gset
SET quota.test_clock = '2026-03-10 12:32:00+00';
SELECT :settled FROM settle_reservation(:'r');
SELECT :settled FROM settle_reservation(:'r', 2.5);
SELECT :settled FROM settle_reservation(:'r');
-- Settle nothing
SELECT reservation_id AS r FROM reserve_quota(:'ann', 'reservations_scans') \gset
SET quota.test_clock = '2026-03-10 12:33:00+00';
SELECT :settled FROM settle_reservation(:'r', 0);
SELECT :settled FROM settle_reservation(:'r', 0.000);
SELECT cancel_reservation(:'r');
SELECT settle_reservation(:'r');
SELECT * FROM pg_temp.accounts(:'ann');
SELECT * FROM pg_temp.ledger(:'ann');

-- 100 of 100 in ten holds of 10: the eleventh is denied, one expires, the next one fits -------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT (o).allowed, (o).remaining FROM (SELECT reserve_quota(:'ben', 'reservations_scans', 10,
		CASE n WHEN 3 THEN interval '1 minute' ELSE interval '5 minutes' END, NULL, jsonb_build_object('n', n)) AS o
	FROM generate_series(1, 10) AS n OFFSET 0) AS s;
SELECT allowed, reason, remaining, used, retry_after, reservation_id, event_id FROM reserve_quota(:'ben', 'reservations_scans', 10);
-- what waits for more than one has to wait longer, what never fits for ever
SELECT allowed, retry_after FROM check_quota(:'ben', 'reservations_scans', 0.000001);
SELECT allowed, retry_after FROM check_quota(:'ben', 'reservations_scans', 10.000001);
SELECT allowed, retry_after FROM check_quota(:'ben', 'reservations_scans', 100);
SELECT allowed, retry_after FROM check_quota(:'ben', 'reservations_scans', 101);
SELECT holds_expire_at FROM usage_tracking WHERE user_id = :'ben';
SET quota.test_clock = '2026-03-10 12:00:59.999999+00';
SELECT allowed, reason, remaining, retry_after FROM reserve_quota(:'ben', 'reservations_scans', 10);
SET quota.test_clock = '2026-03-10 12:01:00+00';
-- from that instant on it does not count, whether anybody has tidied up or not
SELECT allowed, remaining FROM check_quota(:'ben', 'reservations_scans', 10);
SELECT held FROM pg_temp.accounts(:'ben');
SELECT id AS lapsed FROM usage_events WHERE user_id = :'ben' AND metadata = '{"n": 3}' \gset
SELECT :settled, reservation_id, event_id FROM settle_reservation(:'lapsed', 10);
SELECT :moved FROM reserve_quota(:'ben', 'reservations_scans', 10);
SELECT allowed, reason, remaining FROM reserve_quota(:'ben', 'reservations_scans', 10);
SELECT held FROM pg_temp.accounts(:'ben');
SELECT kind, count(*), sum(amount) AS amount, sum(held) AS held FROM usage_events WHERE user_id = :'ben' GROUP BY kind ORDER BY kind;
SELECT e.kind, e.effective_at, o.kind AS of_kind, e.created_at FROM usage_events e JOIN usage_events o ON o.id = e.refers_to WHERE e.user_id = :'ben';
-- it stays expired
SELECT :settled FROM settle_reservation(:'lapsed', 10);
SELECT :settled FROM settle_reservation(:'lapsed', 0);
SELECT :settled FROM cancel_reservation(:'lapsed');
-- all others at once
SET quota.test_clock = '2026-03-10 12:06:00+00';
SELECT allowed, remaining FROM check_quota(:'ben', 'reservations_scans', 100);
SELECT :moved FROM check_and_consume_quota(:'ben', 'reservations_scans', 100);
SELECT used, held FROM pg_temp.accounts(:'ben');
SELECT kind, count(*), sum(amount) AS amount, sum(held) AS held FROM usage_events WHERE user_id = :'ben' GROUP BY kind ORDER BY kind;
SELECT success, reason, count(*) FROM quota_audit_log WHERE user_id = :'ben' AND action IN ('settle', 'cancel') GROUP BY 1, 2;
-- to the last microsecond it can be settled, and not later
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT r1.reservation_id AS r1, r2.reservation_id AS r2
	FROM reserve_quota(:'joe', 'reservations_scans', 5, '1 second') AS r1, reserve_quota(:'joe', 'reservations_scans', 7, '1 second') AS r2 \gset
SET quota.test_clock = '2026-03-10 12:00:00.999999+00';
SELECT :settled FROM settle_reservation(:'r1', 5);
SET quota.test_clock = '2026-03-10 12:00:01+00';
SELECT :settled FROM settle_reservation(:'r2', 7);
-- and what was settled in time is answered again after that
SELECT :settled FROM settle_reservation(:'r1', 5);
SELECT used, remaining FROM check_quota(:'joe', 'reservations_scans');

-- Allowance, bonuses and overage: the rest returns last source first ----------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT grant_bonus(:'cat', 'reservations_soft', 3, NULL, 'A', 10) IS NOT NULL AND grant_bonus(:'cat', 'reservations_soft', 4, NULL, 'B', 20) IS NOT NULL AS granted;
-- 20 = 10 allowance + 3 of A + 4 of B + 3 overage at 2
SELECT reservation_id AS r, :moved, bonus_remaining FROM reserve_quota(:'cat', 'reservations_soft', 20) \gset got_
\echo :got_allowed :got_reason :got_granted :got_bonus_used :got_overage :got_cost :got_used :got_remaining :got_bonus_remaining
SELECT * FROM pg_temp.accounts(:'cat');
SELECT * FROM pg_temp.bonuses(:'cat');
-- the next unit is overage, too
SELECT :moved FROM check_quota(:'cat', 'reservations_soft', 1);
SET quota.test_clock = '2026-03-10 12:01:00+00';
-- 12 = 10 + 2 of A; 1 of A, 4 of B and the overage return
SELECT :settled, bonus_remaining FROM settle_reservation(:'got_r', 12);
SELECT * FROM pg_temp.accounts(:'cat');
SELECT * FROM pg_temp.bonuses(:'cat');
SELECT * FROM pg_temp.ledger(:'cat');
SELECT * FROM pg_temp.lines(:'cat');
-- Settled overage costs
SELECT reservation_id AS r FROM reserve_quota(:'cat', 'reservations_soft', 8) \gset
SET quota.test_clock = '2026-03-10 12:02:00+00';
SELECT :settled, bonus_remaining FROM settle_reservation(:'r', 7.5);
SELECT * FROM pg_temp.accounts(:'cat');
-- Held bonuses return when a hold lapses, and by cancel
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT grant_bonus(:'dan', 'reservations_bonus', 5, NULL, 'A') IS NOT NULL AS granted;
SELECT reservation_id AS r FROM reserve_quota(:'dan', 'reservations_bonus', 12, '1 minute') \gset
SELECT * FROM pg_temp.bonuses(:'dan');
SELECT allowed, remaining, bonus_remaining, retry_after FROM check_quota(:'dan', 'reservations_bonus', 4);
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT allowed, remaining, bonus_remaining FROM check_quota(:'dan', 'reservations_bonus', 15);
SELECT reservation_id AS r FROM reserve_quota(:'dan', 'reservations_bonus', 14, '1 minute') \gset
SELECT * FROM pg_temp.bonuses(:'dan');
SELECT :settled, bonus_remaining FROM cancel_reservation(:'r');
SELECT * FROM pg_temp.bonuses(:'dan');
SELECT * FROM pg_temp.lines(:'dan') ORDER BY kind DESC, held;
-- The held part of a bonus stays valid for the hold's time; what returns after it has expired is lost
SELECT allowed FROM check_and_consume_quota(:'eve', 'reservations_bonus', 10);
SELECT grant_bonus(:'eve', 'reservations_bonus', 8, '2026-03-10 12:03+00', 'A expires') IS NOT NULL AS granted;
SELECT r1.reservation_id AS r1, r2.reservation_id AS r2, r3.reservation_id AS r3
	FROM reserve_quota(:'eve', 'reservations_bonus', 3) AS r1, reserve_quota(:'eve', 'reservations_bonus', 2) AS r2, reserve_quota(:'eve', 'reservations_bonus', 1) AS r3 \gset
SET quota.test_clock = '2026-03-10 12:05:00+00';
SELECT allowed, remaining, bonus_remaining FROM check_quota(:'eve', 'reservations_bonus', 1);
SELECT :settled, bonus_remaining FROM settle_reservation(:'r1');
SET quota.test_clock = '2026-03-10 12:05:01+00';
SELECT :settled, bonus_remaining FROM settle_reservation(:'r2', 0.5);
SET quota.test_clock = '2026-03-10 12:05:02+00';
SELECT :settled, bonus_remaining FROM cancel_reservation(:'r3');
SELECT * FROM pg_temp.bonuses(:'eve');
SELECT * FROM pg_temp.lines(:'eve') WHERE kind <> 'reserve';

-- Settle above ---------------------------------------------------------------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
-- 95 used, 3 held: 2 more fit, exactly
SELECT allowed FROM check_and_consume_quota(:'dan', 'reservations_scans', 95);
SELECT reservation_id AS r FROM reserve_quota(:'dan', 'reservations_scans', 3) \gset
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT :settled FROM settle_reservation(:'r', 5);
SELECT :settled FROM settle_reservation(:'r', 5);
SELECT settle_reservation(:'r', 3);
SELECT used, held FROM pg_temp.accounts(:'dan') WHERE metric = 'reservations_scans';
-- 96 used, 3 held: 2 more do not fit, so none of them is charged; the same again says the same
SELECT allowed FROM check_and_consume_quota(:'eve', 'reservations_scans', 96);
SELECT reservation_id AS r FROM reserve_quota(:'eve', 'reservations_scans', 3) \gset
SET quota.test_clock = '2026-03-10 12:02:00+00';
SELECT :settled FROM settle_reservation(:'r', 5);
SET quota.test_clock = '2026-03-10 12:03:00+00';
SELECT :settled FROM settle_reservation(:'r', 5);
SELECT settle_reservation(:'r', 3);
SELECT kind, amount, requested, held FROM pg_temp.ledger(:'eve') WHERE kind = 'settle' AND requested > amount;
-- what others hold is not taken from them
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT r1.reservation_id AS r1, r2.reservation_id AS r2
	FROM reserve_quota(:'fay', 'reservations_scans', 60) AS r1, reserve_quota(:'fay', 'reservations_scans', 40) AS r2 \gset
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT :settled FROM settle_reservation(:'r1', 60.000001);
SELECT :settled FROM settle_reservation(:'r2');
-- but what has lapsed is there for the taking
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT r1.reservation_id AS r1, r2.reservation_id AS r2
	FROM reserve_quota(:'gus', 'reservations_scans', 60) AS r1, reserve_quota(:'gus', 'reservations_scans', 40, '1 minute') AS r2 \gset
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT :settled FROM settle_reservation(:'r1', 100);
-- a bonus pays for the extra; on a soft limit it becomes overage
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT allowed FROM check_and_consume_quota(:'fay', 'reservations_bonus', 8);
SELECT grant_bonus(:'fay', 'reservations_bonus', 3, NULL, 'A') IS NOT NULL AS granted;
SELECT reservation_id AS r FROM reserve_quota(:'fay', 'reservations_bonus', 1) \gset
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT :settled FROM settle_reservation(:'r', 4);
SELECT allowed FROM check_and_consume_quota(:'fay', 'reservations_soft', 8);
SELECT reservation_id AS r FROM reserve_quota(:'fay', 'reservations_soft', 1) \gset
SET quota.test_clock = '2026-03-10 12:02:00+00';
SELECT :settled FROM settle_reservation(:'r', 4.5);
SELECT metric, used, bonus_used, overage, cost, held FROM pg_temp.accounts(:'fay') WHERE metric <> 'reservations_scans';

-- In the period of the reserve -----------------------------------------------------------------------------------------

SET quota.test_clock = '2026-03-31 23:59:00+00';
SELECT r1.reservation_id AS r1, r2.reservation_id AS r2, r3.reservation_id AS r3, r4.reservation_id AS r4
	FROM reserve_quota(:'hal', 'reservations_scans', 10) AS r1, reserve_quota(:'hal', 'reservations_scans', 20) AS r2,
		reserve_quota(:'hal', 'reservations_scans', 30, '2 minutes') AS r3, reserve_quota(:'hal', 'reservations_scans', 39) AS r4 \gset
SET quota.test_clock = '2026-04-01 00:00:00+00';
-- April has all of its own
SELECT :moved, period_start FROM check_and_consume_quota(:'hal', 'reservations_scans', 90);
SELECT * FROM pg_temp.accounts(:'hal');
SET quota.test_clock = '2026-04-01 00:00:30+00';
SELECT :settled, period_start FROM settle_reservation(:'r1', 8);
SELECT :settled, period_start FROM cancel_reservation(:'r2');
SELECT * FROM pg_temp.accounts(:'hal');
-- March has 8 used, 69 held: 23 more fit into it, exactly, whatever April has
SELECT :settled FROM settle_reservation(:'r4', 62);
SET quota.test_clock = '2026-04-01 00:00:40+00';
SELECT * FROM pg_temp.accounts(:'hal');
SET quota.test_clock = '2026-04-01 00:01:00+00';
SELECT :settled FROM settle_reservation(:'r3', 8);
-- (a call of somebody else's may have written the end of the third before)
SELECT allowed FROM check_and_consume_quota(:'hal', 'reservations_scans', 1);
SELECT * FROM pg_temp.accounts(:'hal');
SELECT kind, amount, requested, held, effective_at, of_kind FROM pg_temp.ledger(:'hal') WHERE kind NOT IN ('reserve', 'consume');
-- 100 of March are used or held, and the extra finds that out, although April is empty
SET quota.test_clock = '2026-03-31 23:59:00+00';
SELECT r1.reservation_id AS r1, r2.reservation_id AS r2
	FROM reserve_quota(:'ida', 'reservations_scans', 60) AS r1, reserve_quota(:'ida', 'reservations_scans', 40) AS r2 \gset
SET quota.test_clock = '2026-04-01 00:01:00+00';
SELECT :settled FROM settle_reservation(:'r1', 61);
SELECT :settled FROM settle_reservation(:'r2', 40);
SELECT * FROM pg_temp.accounts(:'ida');

-- Several windows ----------------------------------------------------------------------------------------------------------

SET quota.test_clock = '2026-03-10 12:58:00+00';
SELECT r1.reservation_id AS r1, r2.reservation_id AS r2
	FROM reserve_quota(:'ida', 'reservations_rate', 10) AS r1, reserve_quota(:'ida', 'reservations_rate', 5) AS r2 \gset
SELECT allowed, period, remaining, used, retry_after FROM check_and_consume_quota(:'ida', 'reservations_rate', 6);
SELECT period, used, held FROM pg_temp.accounts(:'ida') WHERE metric = 'reservations_rate';
SELECT :settled, period FROM settle_reservation(:'r1', 4);
SELECT allowed, period, remaining, used FROM check_and_consume_quota(:'ida', 'reservations_rate', 6);
-- the hour ends before the hold does
SET quota.test_clock = '2026-03-10 13:02:00+00';
SELECT allowed, period, remaining, used FROM check_and_consume_quota(:'ida', 'reservations_rate', 19);
SELECT :settled, period FROM settle_reservation(:'r2', 3);
SELECT period, starts, closed, used, held FROM pg_temp.accounts(:'ida') WHERE metric = 'reservations_rate';

-- Gauges, unlimited ones, and what is not in the plan ------------------------------------------------------------------------

SELECT reservation_id AS r, remaining FROM reserve_quota(:'joe', 'reservations_seats', 2) \gset
SELECT allowed, reason, remaining FROM check_and_consume_quota(:'joe', 'reservations_seats', 2);
SELECT :moved FROM check_and_consume_quota(:'joe', 'reservations_seats', 1);
SELECT :settled FROM settle_reservation(:'r');
SELECT :moved FROM release_quota(:'joe', 'reservations_seats', 2);
SELECT :moved FROM reserve_quota(:'joe', 'reservations_free', 1000000);
SELECT held FROM pg_temp.accounts(:'joe') WHERE metric = 'reservations_free';
SELECT allowed, reason, remaining, reservation_id, retry_after FROM reserve_quota(:'joe', 'reservations_unlisted');
SELECT allowed, reason, remaining, reservation_id, retry_after FROM reserve_quota(md5('reservations nobody')::uuid, 'reservations_scans');

-- What changes while it is held --------------------------------------------------------------------------------------------------

-- the plan drops the metric: what is held was granted, more is not
SELECT r1.reservation_id AS r1, r2.reservation_id AS r2, r3.reservation_id AS r3, r4.reservation_id AS r4
	FROM reserve_quota(:'lee', 'reservations_scans', 8) AS r1, reserve_quota(:'lee', 'reservations_scans', 8) AS r2,
		reserve_quota(:'lee', 'reservations_scans', 3) AS r3, reserve_quota(:'lee', 'reservations_scans', 9, '1 minute') AS r4 \gset
SELECT assign_plan(:'lee', 'reservations_none');
SELECT :settled, period FROM settle_reservation(:'r1', 5);
SELECT :settled, period FROM settle_reservation(:'r1', 5);
SELECT :settled, period FROM cancel_reservation(:'r2');
SELECT :settled, period FROM settle_reservation(:'r3', 4);
SET quota.test_clock = '2026-03-10 13:03:00+00';
SELECT :settled, period FROM settle_reservation(:'r4', 9);
SELECT assign_plan(:'lee', 'reservations_plan');
SELECT used, remaining FROM check_quota(:'lee', 'reservations_scans');
SELECT allowed FROM check_and_consume_quota(:'lee', 'reservations_scans', 92);
SELECT used, held FROM pg_temp.accounts(:'lee');
-- the limit is lowered below what is held: that can be settled, more cannot
SELECT reservation_id AS r FROM reserve_quota(:'mia', 'reservations_scans', 50) \gset
SELECT set_limit_override(:'mia', 'reservations_scans', 10);
SELECT allowed, reason, remaining, used FROM check_quota(:'mia', 'reservations_scans');
SELECT :settled FROM settle_reservation(:'r');
SELECT set_limit_override(:'mia', 'reservations_scans', 70);
SELECT reservation_id AS r, remaining FROM reserve_quota(:'mia', 'reservations_scans', 20) \gset
SELECT set_limit_override(:'mia', 'reservations_scans', 60);
SELECT :settled FROM settle_reservation(:'r', 21);
-- a reset closes the period: the hold stays with it
SELECT allowed FROM check_and_consume_quota(:'ned', 'reservations_scans', 5);
SELECT reservation_id AS r FROM reserve_quota(:'ned', 'reservations_scans', 10) \gset
SET quota.test_clock = '2026-03-10 13:04:00+00';
SELECT metric, old_value, new_value FROM reset_user_quota(:'ned', 'reservations_scans', 'test');
SET quota.test_clock = '2026-03-10 13:05:00+00';
SELECT allowed, remaining, used FROM check_quota(:'ned', 'reservations_scans', 100);
SELECT :settled FROM settle_reservation(:'r', 12);
SELECT closed, used, held FROM pg_temp.accounts(:'ned') ORDER BY closed DESC;

-- Keys -----------------------------------------------------------------------------------------------------------------------

SET quota.test_clock = '2026-03-11 12:00:00+00';
SELECT reservation_id AS r, remaining FROM reserve_quota(:'kim', 'reservations_scans', 60, '5 minutes', 'key') \gset
\echo :remaining
SELECT :moved, already_processed, reservation_id = :'r' AS same FROM reserve_quota(:'kim', 'reservations_scans', 60, '5 minutes', 'key');
SELECT allowed, reason, remaining, reservation_id FROM reserve_quota(:'kim', 'reservations_scans', 61, '5 minutes', 'key');
SELECT allowed, reason, event_id FROM check_and_consume_quota(:'kim', 'reservations_scans', 60, 'key');
SELECT allowed FROM check_and_consume_quota(:'kim', 'reservations_scans', 10, 'other key');
SELECT allowed, reason, reservation_id FROM reserve_quota(:'kim', 'reservations_scans', 10, '5 minutes', 'other key');
-- a denial is not pinned
SELECT allowed, reason, remaining FROM reserve_quota(:'kim', 'reservations_scans', 31, '5 minutes', 'third key');
SELECT :settled FROM settle_reservation(:'r', 50);
SELECT :moved, already_processed FROM reserve_quota(:'kim', 'reservations_scans', 31, '5 minutes', 'third key');
-- after it was settled, and after it has expired, the key still names the reservation
SELECT allowed, already_processed, reservation_id = :'r' AS same FROM reserve_quota(:'kim', 'reservations_scans', 60, '5 minutes', 'key');
SET quota.test_clock = '2026-03-11 13:00:00+00';
SELECT reservation_id AS third, allowed, already_processed FROM reserve_quota(:'kim', 'reservations_scans', 31, '5 minutes', 'third key') \gset
\echo :allowed :already_processed
SELECT :settled FROM settle_reservation(:'third', 31);

-- Rolled back with its transaction
BEGIN;
SELECT allowed, remaining FROM reserve_quota(:'kim', 'reservations_scans', 10);
ROLLBACK;
BEGIN;
SELECT reservation_id AS r, remaining FROM reserve_quota(:'kim', 'reservations_scans', 10) \gset
SAVEPOINT s;
SELECT :settled FROM settle_reservation(:'r', 4);
ROLLBACK TO s;
SELECT :settled FROM cancel_reservation(:'r');
COMMIT;
SELECT metric, used, held FROM pg_temp.accounts(:'kim');

-- How long --------------------------------------------------------------------------------------------------------------------

-- a length, not a date: 24 hours also over the night in which the clocks change
SET TimeZone = 'Europe/Berlin';
SET quota.test_clock = '2026-03-28 13:00:00+01';
SELECT reservation_id AS r FROM reserve_quota(:'kim', 'reservations_free', 1, '1 day') \gset
SELECT expires_at - created_at AS ttl, expires_at FROM usage_events WHERE id = :'r';
SET TimeZone = 'UTC';
SET quota.test_clock = '2026-03-12 12:00:00+00';
CREATE FUNCTION pg_temp.sqlstate_of(p_call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SELECT ' || p_call USING md5('reservations kim')::uuid;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
SELECT ttl, pg_temp.sqlstate_of(format($$reserve_quota($1, 'reservations_free', 1, %L)$$, ttl)) AS sqlstate
	FROM unnest(ARRAY['1 second', '24 hours', '1 day', '23:59:59.999999', '1440 minutes', '1 day -1 hour', NULL, '0', '0.999999 seconds', '-1 second', '-1 day',
		'24:00:00.000001', '1 day 0.000001 seconds', '25 hours', '2 days', '1 week', '1 month', '1000 years', '178000000 years', 'soon'])
		WITH ORDINALITY AS u (ttl, n) ORDER BY n;

-- What cannot be a reservation ---------------------------------------------------------------------------------------------------

SELECT count(*) AS before FROM usage_events \gset
SELECT count(*) AS log_before FROM quota_audit_log \gset
SELECT id AS consumed FROM usage_events WHERE user_id = :'kim' AND kind = 'consume' LIMIT 1 \gset
SELECT id AS settlement FROM usage_events WHERE user_id = :'kim' AND kind = 'settle' LIMIT 1 \gset
SELECT call, pg_temp.sqlstate_of(call) AS sqlstate FROM unnest(ARRAY[
		$$reserve_quota(NULL, 'reservations_scans')$$, $$reserve_quota('not a uuid', 'reservations_scans')$$,
		$$reserve_quota($1, NULL)$$, $$reserve_quota($1, '')$$, $$reserve_quota($1, 'reservations_scan')$$,
		$$reserve_quota($1, 'reservations_scans', NULL)$$, $$reserve_quota($1, 'reservations_scans', 0)$$, $$reserve_quota($1, 'reservations_scans', -1)$$,
		$$reserve_quota($1, 'reservations_scans', 'NaN')$$, $$reserve_quota($1, 'reservations_scans', 'Infinity')$$,
		$$reserve_quota($1, 'reservations_scans', 1e-7)$$, $$reserve_quota($1, 'reservations_scans', 1e18)$$,
		$$reserve_quota($1, 'reservations_scans', 1, '1 hour', '')$$, $$reserve_quota($1, 'reservations_scans', 1, '1 hour', NULL, '[]')$$,
		$$reserve_quota($1, 'reservations_scans', 1, '1 hour', NULL, 'null')$$,
		$$reserve_quota($1, 'reservations_scans', 1, '1 hour', NULL, jsonb_build_object('a', repeat('x', 65536)))$$,
		$$settle_reservation(NULL)$$, $$settle_reservation(NULL, 1)$$, $$settle_reservation('00000000-0000-7000-8000-000000000000')$$,
		$$settle_reservation('00000000-0000-7000-8000-000000000000', 1)$$, $$settle_reservation('not a uuid')$$,
		$$settle_reservation('00000000-0000-7000-8000-000000000000', -1)$$, $$settle_reservation('00000000-0000-7000-8000-000000000000', -0.000001)$$,
		$$settle_reservation('00000000-0000-7000-8000-000000000000', 'NaN')$$, $$settle_reservation('00000000-0000-7000-8000-000000000000', 'Infinity')$$,
		$$settle_reservation('00000000-0000-7000-8000-000000000000', 1e-7)$$, $$settle_reservation('00000000-0000-7000-8000-000000000000', 1e18)$$,
		$$cancel_reservation(NULL)$$, $$cancel_reservation('00000000-0000-7000-8000-000000000000')$$, $$cancel_reservation('not a uuid')$$])
	WITH ORDINALITY AS u (call, n) ORDER BY n;
-- events of other kinds are no reservations
SELECT settle_reservation(:'consumed');
SELECT cancel_reservation(:'settlement');
SELECT count(*) - :before AS events FROM usage_events;
SELECT count(*) - :log_before AS log FROM quota_audit_log;
SELECT reservation_id AS r FROM reserve_quota(:'kim', 'reservations_scans', 1) \gset
BEGIN READ ONLY;
SELECT reserve_quota(:'kim', 'reservations_scans', 1);
ROLLBACK;
BEGIN READ ONLY;
SELECT settle_reservation(:'r');
ROLLBACK;
BEGIN READ ONLY;
SELECT cancel_reservation(:'r');
ROLLBACK;

-- The books ------------------------------------------------------------------------------------------------------------------------

SELECT v.metric, v.period, counter, recorded, expected
	FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus', :'hal', :'ida', :'joe', :'kim', :'lee', :'mia', :'ned']::uuid[]) AS u, verify_ledger(u) AS v;

-- Rollovers: what was not used of a period becomes a bonus at its end.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('rollovers_calls', 'counter'), ('rollovers_all', 'counter'), ('rollovers_min', 'counter'), ('rollovers_odd', 'counter'),
	('rollovers_none', 'counter'), ('rollovers_long', 'counter'), ('rollovers_day', 'counter'), ('rollovers_keep', 'counter'),
	('rollovers_free', 'counter'), ('rollovers_soft', 'counter'), ('rollovers_shadow', 'counter'), ('rollovers_seats', 'gauge'),
	('rollovers_life', 'counter'), ('rollovers_two', 'counter'), ('rollovers_first', 'counter'), ('rollovers_anniversary', 'counter'),
	('rollovers_hours', 'counter');
INSERT INTO plans (plan) VALUES ('rollovers_plan'), ('rollovers_member'), ('rollovers_bigger'), ('rollovers_small');
INSERT INTO plan_limits (plan, metric, period, limit_amount, rollover_min, rollover_max, rollover_ttl) VALUES
	('rollovers_plan', 'rollovers_calls', 'month', 10, NULL, 6, '1 month'),
	('rollovers_plan', 'rollovers_all', 'month', 10, NULL, 10, '1 month'),
	('rollovers_plan', 'rollovers_min', 'month', 10, 3, 8, NULL),
	('rollovers_plan', 'rollovers_odd', 'month', 10, 9, 4, '1 month'),
	('rollovers_plan', 'rollovers_none', 'month', 10, 5, NULL, '1 month'),
	('rollovers_plan', 'rollovers_long', 'month', 10, NULL, 10, '2 months'),
	('rollovers_plan', 'rollovers_day', 'day', 5, NULL, 5, '3 days'),
	('rollovers_plan', 'rollovers_keep', 'day', 5, NULL, 2, NULL),
	('rollovers_plan', 'rollovers_free', 'month', NULL, 3, 6, NULL),
	('rollovers_plan', 'rollovers_seats', 'month', 10, 3, 6, NULL),
	('rollovers_plan', 'rollovers_life', 'lifetime', 10, 3, 6, NULL),
	('rollovers_plan', 'rollovers_two', 'month', 10, NULL, 5, NULL),
	('rollovers_plan', 'rollovers_two', 'day', 4, 2, 3, NULL),
	('rollovers_plan', 'rollovers_hours', 'day', 5, NULL, 5, '24 hours'),
	('rollovers_small', 'rollovers_all', 'month', 10, NULL, 10, '1 month'),
	('rollovers_bigger', 'rollovers_all', 'month', 30, NULL, 20, '1 month');
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price, rollover_max) VALUES
	('rollovers_plan', 'rollovers_soft', 'month', 10, 'soft', 0.5, 10),
	('rollovers_plan', 'rollovers_shadow', 'month', 10, 'shadow', NULL, 10);
INSERT INTO plan_limits (plan, metric, period, limit_amount, anchor, rollover_max, rollover_ttl) VALUES
	('rollovers_plan', 'rollovers_first', 'month', 10, 'first_use', 10, '1 month'),
	('rollovers_plan', 'rollovers_anniversary', 'month', 10, 'subscription', 10, '1 month');
SELECT md5('rollovers ann')::uuid AS ann, md5('rollovers ben')::uuid AS ben, md5('rollovers cat')::uuid AS cat,
	md5('rollovers dan')::uuid AS dan, md5('rollovers eve')::uuid AS eve, md5('rollovers fay')::uuid AS fay,
	md5('rollovers gus')::uuid AS gus, md5('rollovers hal')::uuid AS hal, md5('rollovers team')::uuid AS team,
	md5('rollovers tom')::uuid AS tom, md5('rollovers ida')::uuid AS ida, md5('rollovers jon')::uuid AS jon,
	md5('rollovers lee')::uuid AS lee \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'rollovers_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus', :'ida', :'lee', :'team']::uuid[]) AS u;
INSERT INTO subscriptions (user_id, plan) VALUES (:'jon', 'rollovers_small');
INSERT INTO subscriptions (user_id, plan, parent) VALUES (:'tom', 'rollovers_member', :'team');
INSERT INTO subscriptions (user_id, plan, anchor, time_zone) VALUES
	(:'hal', 'rollovers_plan', '2026-01-31 10:00+01', 'Europe/Berlin');

-- the rollovers that a subject has got
CREATE FUNCTION pg_temp.rolled(p_user_id uuid, p_metric text,
		OUT amount numeric, OUT used numeric, OUT granted_at timestamptz, OUT expires_at timestamptz)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT trim_scale(b.amount), trim_scale(b.used_amount), b.granted_at, b.expires_at
		FROM quota.user_bonuses b WHERE b.user_id = p_user_id AND b.metric = p_metric AND b.source = 'rollover'
		ORDER BY b.granted_at, b.expires_at
$$;
CREATE FUNCTION pg_temp.take(p_user_id uuid, p_metric text, p_amount numeric, OUT allowed boolean, OUT reason text,
		OUT remaining numeric, OUT bonus_used numeric, OUT used numeric, OUT bonus_remaining numeric)
	LANGUAGE sql AS $$
	SELECT o.allowed, o.reason, trim_scale(o.remaining), trim_scale(o.bonus_used), trim_scale(o.used), trim_scale(o.bonus_remaining)
		FROM quota.check_and_consume_quota(p_user_id, p_metric, p_amount) AS o
$$;
CREATE FUNCTION pg_temp.ask(p_user_id uuid, p_metric text, p_amount numeric, OUT allowed boolean, OUT reason text,
		OUT remaining numeric, OUT bonus_used numeric, OUT used numeric, OUT bonus_remaining numeric, OUT retry_after interval)
	LANGUAGE sql AS $$
	SELECT o.allowed, o.reason, trim_scale(o.remaining), trim_scale(o.bonus_used), trim_scale(o.used), trim_scale(o.bonus_remaining),
			justify_hours(o.retry_after)
		FROM quota.check_quota(p_user_id, p_metric, p_amount) AS o
$$;

-- One period and the next ---------------------------------------------------------

-- 3.5 of 10 used: 6.5 are not, of which at most 6 roll over, for a month
SELECT * FROM pg_temp.take(:'ann', 'rollovers_calls', 3.5);
-- nothing rolls before the period ends
SET quota.test_clock = '2026-03-31 23:59:59.999999+00';
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_calls', 1);
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_calls', 16);
SELECT period, used, remaining, bonus_remaining, percent_used, period_start FROM get_user_quota_status(:'ann')
	WHERE metric = 'rollovers_calls';
-- a denial and reading write nothing, and the account is still in March
SELECT * FROM pg_temp.take(:'ann', 'rollovers_calls', 16.000001);
SELECT * FROM pg_temp.rolled(:'ann', 'rollovers_calls');
SELECT used, period_start FROM usage_tracking WHERE user_id = :'ann' AND metric = 'rollovers_calls';
-- tidying writes what they saw, once
SELECT tidy_account(:'ann', 'rollovers_calls') AS first, tidy_account(:'ann', 'rollovers_calls') AS again;
SELECT * FROM pg_temp.rolled(:'ann', 'rollovers_calls');
SELECT priority, source, reason, available, held_amount, given_amount, giftable, voided_at, unit_cost, transaction_id
	FROM user_bonuses WHERE user_id = :'ann' AND metric = 'rollovers_calls';
SELECT period, used, remaining, bonus_remaining, percent_used, period_start FROM get_user_quota_status(:'ann')
	WHERE metric = 'rollovers_calls';
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_calls', 16);
SELECT * FROM pg_temp.take(:'ann', 'rollovers_calls', 12);
SELECT * FROM pg_temp.rolled(:'ann', 'rollovers_calls');
-- what is left of a rollover does not roll over: nothing of April's 10 is left
SET quota.test_clock = '2026-04-30 23:59:59.999999+00';
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_calls', 4);
SET quota.test_clock = '2026-05-01 00:00:00+00';
SELECT * FROM pg_temp.take(:'ann', 'rollovers_calls', 11);
SELECT * FROM pg_temp.take(:'ann', 'rollovers_calls', 10);
SELECT * FROM pg_temp.rolled(:'ann', 'rollovers_calls');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- The first call may use it at once: one event, one line, one bonus
SELECT * FROM pg_temp.take(:'ben', 'rollovers_all', 4);
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT * FROM pg_temp.take(:'ben', 'rollovers_all', 12.25);
SELECT trim_scale(e.amount) AS amount, trim_scale(e.bonus_used) AS bonus_used, trim_scale(a.amount) AS line, b.source
	FROM usage_events e JOIN bonus_allocations a ON a.event_id = e.id JOIN user_bonuses b ON b.id = a.bonus_id
	WHERE e.user_id = :'ben';
SELECT * FROM pg_temp.rolled(:'ben', 'rollovers_all');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Or set it aside: 10 + 6, of which 11 are held, and 3 of those used
SELECT * FROM pg_temp.take(:'cat', 'rollovers_all', 4);
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT reservation_id AS hold, allowed, reason, bonus_used, remaining, bonus_remaining FROM reserve_quota(:'cat', 'rollovers_all', 11) \gset
SELECT :'allowed' AS allowed, :'reason' AS reason, :'remaining' AS remaining, :'bonus_remaining' AS bonus_remaining;
SELECT amount, used_amount, held_amount FROM user_bonuses WHERE user_id = :'cat';
SELECT granted, used, bonus_used, remaining, bonus_remaining FROM settle_reservation(:'hold', 3);
SELECT amount, used_amount, held_amount FROM user_bonuses WHERE user_id = :'cat';
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Two first calls in one statement, or one batch, get it once
SELECT * FROM pg_temp.take(:'dan', 'rollovers_all', 9);
SELECT * FROM pg_temp.take(:'dan', 'rollovers_calls', 9);
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT (o).allowed, (o).remaining, (o).bonus_remaining
	FROM (SELECT check_and_consume_quota(:'dan', 'rollovers_all', 1) AS o FROM generate_series(1, 2) OFFSET 0) AS s;
SELECT allowed, remaining, bonus_remaining
	FROM consume_quota_batch(ARRAY[:'dan', :'dan']::uuid[], ARRAY['rollovers_calls', 'rollovers_calls']);
SELECT * FROM pg_temp.rolled(:'dan', 'rollovers_all') UNION ALL SELECT * FROM pg_temp.rolled(:'dan', 'rollovers_calls');
-- a rollback takes it back, and it comes again
SET quota.test_clock = '2026-05-01 00:00:00+00';
BEGIN;
SELECT * FROM pg_temp.take(:'dan', 'rollovers_all', 1);
SELECT * FROM pg_temp.rolled(:'dan', 'rollovers_all');
ROLLBACK;
SELECT * FROM pg_temp.rolled(:'dan', 'rollovers_all');
SELECT * FROM pg_temp.take(:'dan', 'rollovers_all', 1);
SELECT * FROM pg_temp.rolled(:'dan', 'rollovers_all');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- At least, and at most ----------------------------------------------------------------

-- all used: 3 roll over all the same; 1 used: 9 unused, 8 roll over; both for ever
SELECT * FROM pg_temp.take(:'ann', 'rollovers_min', 10);
SELECT * FROM pg_temp.take(:'ben', 'rollovers_min', 1);
-- and between the two it is what was not used: 10 - 5.7
SELECT * FROM pg_temp.take(:'cat', 'rollovers_min', 5.7);
-- a minimum above the maximum: the maximum counts; no maximum: nothing
SELECT * FROM pg_temp.take(:'ann', 'rollovers_odd', 10);
SELECT * FROM pg_temp.take(:'ann', 'rollovers_none', 1);
SET quota.test_clock = '2026-04-10 00:00:00+00';
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_min', 1);
SELECT * FROM pg_temp.ask(:'ben', 'rollovers_min', 1);
SELECT * FROM pg_temp.ask(:'cat', 'rollovers_min', 1);
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_odd', 1);
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_none', 1);
-- an account that was never used gives nothing, however many periods pass
SELECT * FROM pg_temp.ask(:'dan', 'rollovers_min', 1);
SELECT tidy_account(:'dan', 'rollovers_min');
SELECT * FROM pg_temp.take(:'dan', 'rollovers_min', 11);
SELECT * FROM pg_temp.take(:'dan', 'rollovers_min', 1);
SELECT * FROM pg_temp.rolled(:'dan', 'rollovers_min');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Whoever is first writes it ------------------------------------------------------------------

-- 4 of March used, or 4 and 2 held: 6, or 4, roll over, whatever comes first in April, and once
CREATE FUNCTION pg_temp.first_call(p_call text, OUT rolled text, OUT still_due boolean) LANGUAGE plpgsql AS $$
DECLARE
	v_user	uuid := md5('rollovers first ' || p_call)::uuid;
	v_event	uuid;
	v_older	uuid;
	v_hold	uuid;
BEGIN
	INSERT INTO quota.subscriptions (user_id, plan) VALUES (v_user, 'rollovers_plan');
	IF p_call LIKE '%older%' THEN
		PERFORM set_config('quota.test_clock', '2026-02-10 12:00:00+00', true);
		SELECT event_id INTO v_older FROM quota.check_and_consume_quota(v_user, 'rollovers_all', 10);
	END IF;
	PERFORM set_config('quota.test_clock', '2026-03-31 12:00:00+00', true);
	SELECT event_id INTO v_event FROM quota.check_and_consume_quota(v_user, 'rollovers_all', 4);
	IF p_call LIKE '%hold%' THEN
		SELECT reservation_id INTO v_hold FROM quota.reserve_quota(v_user, 'rollovers_all', 2, '24 hours');
	END IF;
	PERFORM set_config('quota.test_clock', '2026-04-01 06:00:00+00', true);
	EXECUTE 'SELECT quota.' || replace(replace(replace(replace(p_call, 'user', quote_literal(v_user)), 'event', quote_literal(v_event)),
		'hold', quote_nullable(v_hold)), 'older', quote_nullable(v_older));
	rolled := (SELECT string_agg(format('%s, %s used, from %s', trim_scale(amount), trim_scale(used_amount), granted_at), '; ')
		FROM quota.user_bonuses WHERE user_id = v_user AND source = 'rollover');
	still_due := quota.tidy_account(v_user, 'rollovers_all');
END
$$;
SELECT call, f.* FROM unnest(ARRAY[
	$$check_and_consume_quota(user, 'rollovers_all', 11)$$,
	$$require_quota(user, 'rollovers_all', 11)$$,
	$$consume_up_to(user, 'rollovers_all', 100)$$,
	$$consume_quotas(user, '{"rollovers_all": 12, "rollovers_none": 1}')$$,
	$$consume_quota_batch(ARRAY[user, user]::uuid[], ARRAY['rollovers_all', 'rollovers_all'], ARRAY[8, 8])$$,
	$$reserve_quota(user, 'rollovers_all', 11)$$,
	$$settle_reservation(hold, 1)$$,
	$$cancel_reservation(hold)$$,
	$$refund_quota(event, 1)$$,
	$$refund_quota(older, 1)$$,
	$$adjust_account(user, 'rollovers_all', 5)$$,
	$$reset_account(user, 'rollovers_all')$$,
	$$tidy_account(user, 'rollovers_all')$$]) AS call, LATERAL pg_temp.first_call(call) AS f;
-- nor does looking at it in a transaction that may not write change anything
SELECT * FROM pg_temp.take(:'ann', 'rollovers_all', 4);
SET quota.test_clock = '2026-04-01 00:00:00+00';
BEGIN READ ONLY;
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_all', 16);
SELECT bonus_remaining, remaining FROM get_user_quota_status(:'ann') WHERE metric = 'rollovers_all';
COMMIT;
-- what a savepoint takes back comes again
BEGIN;
SAVEPOINT a;
SELECT * FROM pg_temp.take(:'ann', 'rollovers_all', 11);
ROLLBACK TO a;
SELECT * FROM pg_temp.take(:'ann', 'rollovers_all', 12);
COMMIT;
SELECT * FROM pg_temp.rolled(:'ann', 'rollovers_all');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Held is not unused ----------------------------------------------------------------------

-- 2 used, 3 held over the end of March: 5 roll over, and settling later changes that no more
SELECT * FROM pg_temp.take(:'eve', 'rollovers_all', 2);
SET quota.test_clock = '2026-03-31 12:00:00+00';
SELECT reservation_id AS hold FROM reserve_quota(:'eve', 'rollovers_all', 3, '24 hours') \gset
SET quota.test_clock = '2026-04-01 01:00:00+00';
SELECT * FROM pg_temp.ask(:'eve', 'rollovers_all', 1);
SELECT granted, used, bonus_remaining FROM settle_reservation(:'hold', 1);
SELECT * FROM pg_temp.rolled(:'eve', 'rollovers_all');
SELECT period_start, used, held FROM usage_history WHERE user_id = :'eve';
SET quota.test_clock = '2026-03-10 12:00:00+00';
-- the same, but the hold lapses after the end and before the first call: at the end it was held
SELECT * FROM pg_temp.take(:'fay', 'rollovers_all', 2);
SET quota.test_clock = '2026-03-31 23:59:00+00';
SELECT allowed FROM reserve_quota(:'fay', 'rollovers_all', 3, '2 minutes');
SET quota.test_clock = '2026-04-01 12:00:00+00';
SELECT * FROM pg_temp.ask(:'fay', 'rollovers_all', 1);
SELECT * FROM pg_temp.take(:'fay', 'rollovers_all', 1);
SELECT * FROM pg_temp.rolled(:'fay', 'rollovers_all');
SELECT period_start, used, held FROM usage_history WHERE user_id = :'fay';
SET quota.test_clock = '2026-03-10 12:00:00+00';
-- a hold that lapsed within March left its units unused (8), whether somebody has tidied or not
SELECT * FROM pg_temp.take(:'gus', 'rollovers_all', 2);
SELECT allowed FROM reserve_quota(:'gus', 'rollovers_all', 3, '5 minutes');
SELECT * FROM pg_temp.take(:'gus', 'rollovers_long', 2);
SELECT allowed FROM reserve_quota(:'gus', 'rollovers_long', 3, '5 minutes');
SET quota.test_clock = '2026-03-20 12:00:00+00';
SELECT tidy_account(:'gus', 'rollovers_long');
SET quota.test_clock = '2026-04-01 12:00:00+00';
SELECT * FROM pg_temp.ask(:'gus', 'rollovers_long', 1);
SELECT * FROM pg_temp.ask(:'gus', 'rollovers_all', 1);
SELECT tidy_account(:'gus', 'rollovers_all'), tidy_account(:'gus', 'rollovers_long');
SELECT * FROM pg_temp.rolled(:'gus', 'rollovers_long');
SELECT * FROM pg_temp.rolled(:'gus', 'rollovers_all');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Given back, reset, corrected ----------------------------------------------------------------

-- what comes back after the end corrects March's history, and not what has rolled over,
-- also where the refund is the first call of April: 10 - 8 = 2
SELECT event_id AS event FROM check_and_consume_quota(:'ben', 'rollovers_calls', 8) \gset
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT granted FROM refund_quota(:'event', 5);
SELECT * FROM pg_temp.rolled(:'ben', 'rollovers_calls');
SELECT used FROM usage_history WHERE user_id = :'ben' AND metric = 'rollovers_calls';
SELECT * FROM pg_temp.ask(:'ben', 'rollovers_calls', 1);
SET quota.test_clock = '2026-03-10 12:00:00+00';
-- a reset is no end of a period; what is unused then is of the rest of it: 10 - 4
SELECT * FROM pg_temp.take(:'cat', 'rollovers_calls', 7);
SELECT allowed FROM reset_account(:'cat', 'rollovers_calls');
SELECT * FROM pg_temp.ask(:'cat', 'rollovers_calls', 1);
SET quota.test_clock = '2026-03-20 12:00:00+00';
SELECT * FROM pg_temp.take(:'cat', 'rollovers_calls', 4);
SELECT * FROM pg_temp.rolled(:'cat', 'rollovers_calls');
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT tidy_account(:'cat', 'rollovers_calls');
SELECT * FROM pg_temp.rolled(:'cat', 'rollovers_calls');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Periods in which nothing happened -----------------------------------------------------------------

-- 5 a day, kept for three days: of nine idle days (10 March left 4) those that ended on the
-- 18th, 19th and 20th can still be used; that of the 17th expires at this very instant
SELECT * FROM pg_temp.take(:'ann', 'rollovers_day', 1);
SET quota.test_clock = '2026-03-20 00:00:00+00';
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_day', 20);
SELECT bonus_remaining, remaining FROM get_user_quota_status(:'ann') WHERE metric = 'rollovers_day';
SELECT * FROM pg_temp.take(:'ann', 'rollovers_day', 13);
SELECT * FROM pg_temp.rolled(:'ann', 'rollovers_day');
SELECT period_start, period_end, used FROM usage_history WHERE user_id = :'ann' AND metric = 'rollovers_day';
SET quota.test_clock = '2026-01-01 12:00:00+00';
-- 2 a day for ever, idle for 67 days: that of the day of the last use, and the last 24
SELECT * FROM pg_temp.take(:'ann', 'rollovers_keep', 1);
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_keep', 1);
SELECT tidy_account(:'ann', 'rollovers_keep') AS first, tidy_account(:'ann', 'rollovers_keep') AS again;
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_keep', 1);
SELECT count(*), sum(amount) AS amount, min(granted_at) AS closed,
	min(granted_at) FILTER (WHERE granted_at > '2026-01-03') AS first_idle, max(granted_at) AS last_idle
	FROM pg_temp.rolled(:'ann', 'rollovers_keep');

-- A bonus that outlives the next period ---------------------------------------------------------------

-- January leaves 6 until April, February 7 until May; the one that ends sooner is used first
SET quota.test_clock = '2026-01-10 12:00:00+00';
SELECT * FROM pg_temp.take(:'ann', 'rollovers_long', 4);
SET quota.test_clock = '2026-02-10 12:00:00+00';
SELECT * FROM pg_temp.take(:'ann', 'rollovers_long', 3);
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT * FROM pg_temp.take(:'ann', 'rollovers_long', 12);
SELECT * FROM pg_temp.rolled(:'ann', 'rollovers_long');
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT * FROM pg_temp.take(:'ann', 'rollovers_long', 11);
SELECT * FROM pg_temp.rolled(:'ann', 'rollovers_long');
SET quota.test_clock = '2026-05-01 00:00:00+00';
SELECT * FROM pg_temp.ask(:'ann', 'rollovers_long', 1);
-- both due at once, for an account that slept through February: 6 (of January) and 10
SET quota.test_clock = '2026-01-10 12:00:00+00';
SELECT * FROM pg_temp.take(:'ben', 'rollovers_long', 4);
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT * FROM pg_temp.take(:'ben', 'rollovers_long', 17);
SELECT * FROM pg_temp.rolled(:'ben', 'rollovers_long');

-- In the subject's time zone -----------------------------------------------------------------------------

-- Berlin: February begins at 23:00 UTC of 31 January, and its rollover ends with it
SET quota.test_clock = '2026-01-31 22:59:59+00';
SELECT * FROM pg_temp.take(:'hal', 'rollovers_all', 4);
SET quota.test_clock = '2026-01-31 23:00:00+00';
SELECT * FROM pg_temp.take(:'hal', 'rollovers_all', 10);
SET quota.test_clock = '2026-02-28 22:59:59+00';
SELECT * FROM pg_temp.ask(:'hal', 'rollovers_all', 1);
-- March: nothing of February is left to roll over, and January's is gone
SET quota.test_clock = '2026-02-28 23:00:00+00';
SELECT * FROM pg_temp.take(:'hal', 'rollovers_all', 7);
-- April begins at 22:00 UTC, in summer time, and so does May
SET quota.test_clock = '2026-03-31 22:00:00+00';
SELECT tidy_account(:'hal', 'rollovers_all');
SELECT * FROM pg_temp.rolled(:'hal', 'rollovers_all');
-- months from 31 January, 10 o'clock: 28 February, 31 March; and a month after these
SET quota.test_clock = '2026-02-01 12:00:00+00';
SELECT * FROM pg_temp.take(:'hal', 'rollovers_anniversary', 1);
SET quota.test_clock = '2026-02-28 09:00:00+00';
SELECT * FROM pg_temp.take(:'hal', 'rollovers_anniversary', 2);
SET quota.test_clock = '2026-03-31 07:59:59+00';
SELECT * FROM pg_temp.ask(:'hal', 'rollovers_anniversary', 1);
SET quota.test_clock = '2026-03-31 08:00:00+00';
SELECT tidy_account(:'hal', 'rollovers_anniversary');
SELECT * FROM pg_temp.rolled(:'hal', 'rollovers_anniversary');
-- 29 March has 23 hours: three days from its beginning are 71 hours, but 24 hours are 24
SET quota.test_clock = '2026-03-28 12:00:00+00';
SELECT * FROM pg_temp.take(:'hal', 'rollovers_day', 1);
SELECT * FROM pg_temp.take(:'hal', 'rollovers_hours', 1);
SET quota.test_clock = '2026-03-28 23:00:00+00';
SELECT tidy_account(:'hal', 'rollovers_day'), tidy_account(:'hal', 'rollovers_hours');
SELECT * FROM pg_temp.rolled(:'hal', 'rollovers_day') UNION ALL SELECT * FROM pg_temp.rolled(:'hal', 'rollovers_hours');
-- from the first use on 30 January: to 28 February, and a month after that
SET quota.test_clock = '2026-01-30 12:00:00+00';
SELECT * FROM pg_temp.take(:'ann', 'rollovers_first', 1);
SET quota.test_clock = '2026-02-28 12:00:00+00';
SELECT tidy_account(:'ann', 'rollovers_first');
SELECT * FROM pg_temp.rolled(:'ann', 'rollovers_first');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Kinds of limits ------------------------------------------------------------------------------------------------

-- unlimited, gauges and lifetimes leave nothing; of several windows only the longest does
SELECT * FROM pg_temp.take(:'eve', 'rollovers_free', 1);
SELECT * FROM pg_temp.take(:'eve', 'rollovers_seats', 1);
SELECT * FROM pg_temp.take(:'eve', 'rollovers_life', 1);
SELECT * FROM pg_temp.take(:'eve', 'rollovers_two', 1);
-- soft: overage is no negative rest; shadow: neither is what it let pass
SELECT * FROM pg_temp.take(:'eve', 'rollovers_soft', 13);
SELECT * FROM pg_temp.take(:'eve', 'rollovers_shadow', 13);
SELECT * FROM pg_temp.take(:'fay', 'rollovers_soft', 4);
SELECT * FROM pg_temp.take(:'fay', 'rollovers_shadow', 4);
SET quota.test_clock = '2026-03-11 12:00:00+00';
SELECT * FROM pg_temp.take(:'eve', 'rollovers_two', 1);
SET quota.test_clock = '2026-04-01 12:00:00+00';
SELECT * FROM pg_temp.take(:'eve', 'rollovers_free', 1);
SELECT * FROM pg_temp.take(:'eve', 'rollovers_seats', 1);
SELECT * FROM pg_temp.take(:'eve', 'rollovers_life', 1);
SELECT * FROM pg_temp.take(:'eve', 'rollovers_two', 1);
SELECT * FROM pg_temp.take(:'eve', 'rollovers_soft', 1);
SELECT * FROM pg_temp.take(:'eve', 'rollovers_shadow', 1);
SELECT metric, trim_scale(amount) AS amount, granted_at FROM user_bonuses
	WHERE user_id = :'eve' AND source = 'rollover' AND metric <> 'rollovers_all' ORDER BY 1, 3;
-- soft: the allowance, then the 6 of March, then at a price
SELECT allowed, reason, bonus_used, overage, cost FROM check_and_consume_quota(:'fay', 'rollovers_soft', 17);
SELECT * FROM pg_temp.take(:'fay', 'rollovers_shadow', 1);
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- The parent's own -----------------------------------------------------------------------------------------------

SELECT * FROM pg_temp.take(:'tom', 'rollovers_all', 3);
SET quota.test_clock = '2026-04-01 12:00:00+00';
SELECT * FROM pg_temp.take(:'tom', 'rollovers_all', 16);
SELECT * FROM pg_temp.rolled(:'team', 'rollovers_all');
SELECT * FROM pg_temp.rolled(:'tom', 'rollovers_all');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- The limit that counted when the period ended -------------------------------------------------------------------

-- 10, of which 4 are used: 6, though the plan has become a bigger one before anybody called in April,
-- or did so at that very end; and with 12 until then it is 8
SELECT * FROM pg_temp.take(:'ida', 'rollovers_all', 4);
SELECT * FROM pg_temp.take(:'jon', 'rollovers_all', 4);
SELECT * FROM pg_temp.take(:'lee', 'rollovers_all', 4);
SELECT assign_plan(:'jon', 'rollovers_bigger', 'at_period_end');
SELECT set_limit_override(:'lee', 'rollovers_all', 12, '2026-04-01 00:00+00', 'for March');
SET quota.test_clock = '2026-04-05 12:00:00+00';
SELECT assign_plan(:'ida', 'rollovers_bigger');
SELECT * FROM pg_temp.ask(:'ida', 'rollovers_all', 1);
SELECT * FROM pg_temp.ask(:'jon', 'rollovers_all', 1);
SELECT * FROM pg_temp.ask(:'lee', 'rollovers_all', 1);
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- A denial knows what will roll over -----------------------------------------------------------------------------

-- 6 of March's 10 will be left, so there are 16 on 1 April; an account that was never used has 10 for ever
SELECT * FROM pg_temp.take(:'fay', 'rollovers_long', 4);
SELECT allowed, retry_after FROM pg_temp.ask(:'fay', 'rollovers_long', 10);
SELECT allowed, retry_after FROM pg_temp.ask(:'fay', 'rollovers_long', 16);
SELECT allowed, retry_after FROM pg_temp.ask(:'fay', 'rollovers_min', 11);

-- What a plan may say ----------------------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.terms(p_min numeric, p_max numeric, p_ttl interval) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, rollover_min, rollover_max, rollover_ttl)
		VALUES ('rollovers_small', 'rollovers_calls', 'month', 10, p_min, p_max, p_ttl);
	DELETE FROM quota.plan_limits WHERE plan = 'rollovers_small' AND metric = 'rollovers_calls';
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
SELECT min, max, ttl, pg_temp.terms(min, max, ttl) FROM (VALUES
	(NULL::numeric, 5::numeric, NULL::interval), (0, 0, '1 microsecond'), (7, 5, '100 years'), (0.000001, 0.000001, '1 month'),
	(-1, 5, NULL), (NULL, -1, NULL), ('NaN', 5, NULL), (NULL, 'NaN', NULL), (NULL, 'Infinity', NULL), (NULL, 0.0000001, NULL),
	(NULL, 1e18, NULL), (NULL, 5, '0'), (NULL, 5, '-1 day'), (NULL, 5, '1 month -31 days'),
	(NULL, 5, '1001 years'), (NULL, 5, '2562047788 hours')) AS v (min, max, ttl);
-- Books
SELECT count(*) FROM user_bonuses WHERE metric LIKE 'rollovers%' AND (used_amount < 0 OR used_amount > amount);
SELECT user_id, metric, period, counter FROM verify_ledger() WHERE metric LIKE 'rollovers%';
RESET quota.test_clock;

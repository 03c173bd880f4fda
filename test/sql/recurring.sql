-- Recurring bonuses: units that a subject gets anew in each period, without anybody's doing.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('recurring_calls', 'counter'), ('recurring_other', 'counter'), ('recurring_free', 'counter'), ('recurring_unlisted', 'counter'),
	('recurring_soft', 'counter'), ('recurring_seats', 'gauge');
INSERT INTO metric_aliases VALUES ('recurring_requests', 'recurring_calls');
INSERT INTO plans (plan) VALUES ('recurring_plan'), ('recurring_member');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('recurring_plan', 'recurring_calls', 'month', 10),
	('recurring_plan', 'recurring_other', 'month', 10),
	('recurring_plan', 'recurring_free', 'month', NULL),
	('recurring_plan', 'recurring_seats', 'lifetime', 2);
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES
	('recurring_plan', 'recurring_soft', 'month', 10, 'soft', 2);
SELECT md5('recurring ann')::uuid AS ann, md5('recurring ben')::uuid AS ben, md5('recurring cat')::uuid AS cat,
	md5('recurring dan')::uuid AS dan, md5('recurring eve')::uuid AS eve, md5('recurring fay')::uuid AS fay,
	md5('recurring gus')::uuid AS gus, md5('recurring hal')::uuid AS hal, md5('recurring ida')::uuid AS ida,
	md5('recurring jon')::uuid AS jon, md5('recurring kim')::uuid AS kim, md5('recurring lee')::uuid AS lee,
	md5('recurring nia')::uuid AS nia, md5('recurring oto')::uuid AS oto, md5('recurring team')::uuid AS team, md5('recurring tom')::uuid AS tom \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'recurring_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus', :'ida', :'jon', :'kim', :'lee', :'nia', :'oto', :'team']::uuid[]) AS u;
INSERT INTO subscriptions (user_id, plan, time_zone) VALUES (:'hal', 'recurring_plan', 'Europe/Berlin');
INSERT INTO subscriptions (user_id, plan, parent) VALUES (:'tom', 'recurring_member', :'team');

-- what a subject has been given
CREATE FUNCTION pg_temp.given(p_user_id uuid, p_metric text,
		OUT amount numeric, OUT used numeric, OUT granted_at timestamptz, OUT expires_at timestamptz, OUT reason text, OUT void boolean)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT trim_scale(b.amount), trim_scale(b.used_amount), b.granted_at, b.expires_at, b.reason, b.voided_at IS NOT NULL
		FROM quota.user_bonuses b WHERE b.user_id = p_user_id AND b.metric = p_metric AND b.source = 'refill'
		ORDER BY b.granted_at, b.reason
$$;
CREATE FUNCTION pg_temp.take(p_user_id uuid, p_metric text, p_amount numeric, OUT allowed boolean, OUT reason text,
		OUT remaining numeric, OUT bonus_used numeric, OUT used numeric, OUT bonus_remaining numeric)
	LANGUAGE sql AS $$
	SELECT o.allowed, o.reason, trim_scale(o.remaining), trim_scale(o.bonus_used), trim_scale(o.used), trim_scale(o.bonus_remaining)
		FROM quota.check_and_consume_quota(p_user_id, p_metric, p_amount) AS o
$$;
CREATE FUNCTION pg_temp.ask(p_user_id uuid, p_metric text, p_amount numeric, OUT allowed boolean, OUT remaining numeric,
		OUT bonus_used numeric, OUT bonus_remaining numeric, OUT retry_after interval)
	LANGUAGE sql AS $$
	SELECT o.allowed, trim_scale(o.remaining), trim_scale(o.bonus_used), trim_scale(o.bonus_remaining), justify_hours(o.retry_after)
		FROM quota.check_quota(p_user_id, p_metric, p_amount) AS o
$$;

-- The first period and the next ----------------------------------------------------------------

-- five a month from now, 10 March 12:00, on; by an alias
SELECT set_recurring_bonus(:'ann', 'recurring_requests', 5, '1 month', 'five a month') AS ann_five \gset
SELECT metric, amount, period, anchor, accumulates, priority, ends_at, reason, created_at FROM recurring_bonuses WHERE id = :'ann_five';
SELECT metric, attempted_amount, success, reason, period, action, actor = session_user AS actor, created_at,
	detail #- '{new,recurring_id}' AS detail, detail -> 'new' ->> 'recurring_id' = :'ann_five' AS id
	FROM quota_audit_log WHERE user_id = :'ann';
-- there at once, though there is no row
SELECT * FROM pg_temp.ask(:'ann', 'recurring_calls', 15);
SELECT remaining, bonus_remaining, used FROM get_user_quota_status(:'ann') WHERE metric = 'recurring_calls';
SELECT * FROM pg_temp.take(:'ann', 'recurring_calls', 16);
SELECT * FROM pg_temp.given(:'ann', 'recurring_calls');
SELECT * FROM pg_temp.take(:'ann', 'recurring_calls', 12);
SELECT * FROM pg_temp.given(:'ann', 'recurring_calls');
SELECT trim_scale(e.amount) AS amount, trim_scale(e.bonus_used) AS bonus_used, trim_scale(a.amount) AS line, b.source, b.priority, b.giftable
	FROM usage_events e JOIN bonus_allocations a ON a.event_id = e.id JOIN user_bonuses b ON b.id = a.bonus_id
	WHERE e.user_id = :'ann';
-- given once
SELECT * FROM pg_temp.take(:'ann', 'recurring_calls', 4);
SELECT * FROM pg_temp.take(:'ann', 'recurring_calls', 3);
SELECT * FROM pg_temp.ask(:'ann', 'recurring_calls', 1);
SELECT * FROM pg_temp.given(:'ann', 'recurring_calls');
-- the allowance begins anew on 1 April, the bonus on the 10th at noon
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT * FROM pg_temp.take(:'ann', 'recurring_calls', 10);
SET quota.test_clock = '2026-04-10 11:59:59.999999+00';
SELECT * FROM pg_temp.take(:'ann', 'recurring_calls', 1);
SET quota.test_clock = '2026-04-10 12:00:00+00';
SELECT * FROM pg_temp.take(:'ann', 'recurring_calls', 1);
SELECT * FROM pg_temp.given(:'ann', 'recurring_calls');
-- what was not used of it ends with its period; periods in which nobody called are not made up for
SET quota.test_clock = '2026-07-20 12:00:00+00';
SELECT * FROM pg_temp.ask(:'ann', 'recurring_calls', 15);
SELECT tidy_account(:'ann', 'recurring_calls') AS first, tidy_account(:'ann', 'recurring_calls') AS again;
SELECT * FROM pg_temp.given(:'ann', 'recurring_calls');
SELECT * FROM pg_temp.ask(:'ann', 'recurring_calls', 16);
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Those that accumulate ----------------------------------------------------------------------------

-- two a week from 10 March on: those of 10, 17, 24 and 31 March stay
SELECT set_recurring_bonus(:'ben', 'recurring_calls', 2, 'week', p_accumulates := true) IS NOT NULL AS set;
SET quota.test_clock = '2026-04-01 12:00:00+00';
SELECT * FROM pg_temp.ask(:'ben', 'recurring_calls', 18);
SELECT * FROM pg_temp.take(:'ben', 'recurring_calls', 13);
SELECT * FROM pg_temp.given(:'ben', 'recurring_calls');
-- three weeks later: those of 7, 14 and 21 April, and what was left
SET quota.test_clock = '2026-04-22 12:00:00+00';
SELECT * FROM pg_temp.take(:'ben', 'recurring_calls', 11);
SELECT * FROM pg_temp.given(:'ben', 'recurring_calls');
SET quota.test_clock = '2026-03-10 12:00:00+00';
-- a day each since 1 January: the last 24 of 69 days
SELECT set_recurring_bonus(:'cat', 'recurring_calls', 1, 'day', p_anchor := '2026-01-01 00:00+00', p_accumulates := true) IS NOT NULL AS set;
SELECT * FROM pg_temp.ask(:'cat', 'recurring_calls', 34);
SELECT tidy_account(:'cat', 'recurring_calls') AS first, tidy_account(:'cat', 'recurring_calls') AS again;
SELECT count(*), sum(amount) AS amount, min(granted_at) AS first, max(granted_at) AS last, count(expires_at) AS expire FROM pg_temp.given(:'cat', 'recurring_calls');

-- When it begins and ends -------------------------------------------------------------------------------

-- from 12 March 12:00 on, until 20 April: the last one begins on 12 April and lasts until 12 May
SELECT set_recurring_bonus(:'dan', 'recurring_calls', 5, p_anchor := '2026-03-12 12:00+00', p_ends_at := '2026-04-20 00:00+00') IS NOT NULL AS set;
SELECT * FROM pg_temp.take(:'dan', 'recurring_calls', 10);
-- the denial knows of it: in two days, and not for more than 5
SELECT * FROM pg_temp.ask(:'dan', 'recurring_calls', 5);
SELECT * FROM pg_temp.ask(:'dan', 'recurring_calls', 6);
SET quota.test_clock = '2026-03-12 11:59:59.999999+00';
SELECT * FROM pg_temp.take(:'dan', 'recurring_calls', 1);
SET quota.test_clock = '2026-03-12 12:00:00+00';
SELECT * FROM pg_temp.take(:'dan', 'recurring_calls', 1);
SET quota.test_clock = '2026-04-19 23:59:59+00';
SELECT * FROM pg_temp.take(:'dan', 'recurring_calls', 1);
SET quota.test_clock = '2026-05-12 11:59:59.999999+00';
SELECT * FROM pg_temp.ask(:'dan', 'recurring_calls', 1);
SET quota.test_clock = '2026-05-12 12:00:00+00';
SELECT * FROM pg_temp.ask(:'dan', 'recurring_calls', 1);
SELECT * FROM pg_temp.given(:'dan', 'recurring_calls');
SET quota.test_clock = '2026-03-10 12:00:00+00';
-- that of the period that begins before the end is there until its own end, whether somebody has
-- called meanwhile or not; none begins at the very end, or after it
SELECT set_recurring_bonus(:'eve', 'recurring_calls', 5, 'month', p_ends_at := '2026-04-10 12:00+00') IS NOT NULL AS set;
SELECT set_recurring_bonus(:'nia', 'recurring_calls', 5, 'month', p_ends_at := '2026-04-10 12:00:00.000001+00') IS NOT NULL AS set;
-- two a week, those of 10, 17 and 24 March
SELECT set_recurring_bonus(:'nia', 'recurring_other', 2, 'week', p_accumulates := true, p_ends_at := '2026-03-25 00:00+00') IS NOT NULL AS set;
SET quota.test_clock = '2026-04-10 11:59:59.999999+00';
SELECT * FROM pg_temp.ask(:'eve', 'recurring_calls', 1);
SELECT * FROM pg_temp.ask(:'nia', 'recurring_calls', 1);
SET quota.test_clock = '2026-04-10 12:00:00+00';
SELECT * FROM pg_temp.ask(:'eve', 'recurring_calls', 1);
SELECT * FROM pg_temp.ask(:'nia', 'recurring_calls', 1);
SET quota.test_clock = '2026-05-10 11:59:59.999999+00';
SELECT * FROM pg_temp.ask(:'nia', 'recurring_calls', 1);
SELECT * FROM pg_temp.ask(:'nia', 'recurring_other', 1);
SET quota.test_clock = '2026-05-10 12:00:00+00';
SELECT * FROM pg_temp.ask(:'nia', 'recurring_calls', 1);
SELECT * FROM pg_temp.ask(:'nia', 'recurring_other', 1);
-- after the end of one, a denial still knows when another comes: 3 in a week, before June
SELECT set_recurring_bonus(:'nia', 'recurring_other', 3, 'week') IS NOT NULL AS set;
SELECT * FROM pg_temp.take(:'nia', 'recurring_other', 19);
SELECT * FROM pg_temp.ask(:'nia', 'recurring_other', 3);
SELECT * FROM pg_temp.ask(:'nia', 'recurring_other', 4);
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Stopped: what was given stays until its period ends, nothing more is given -----------------------------

SELECT set_recurring_bonus(:'eve', 'recurring_other', 5, 'month', 'stops') AS eve_stops \gset
SELECT * FROM pg_temp.take(:'eve', 'recurring_other', 11);
SET quota.test_clock = '2026-03-20 00:00:00+00';
SELECT stop_recurring_bonus(:'eve_stops', 'enough') AS stopped;
SELECT stop_recurring_bonus(:'eve_stops') AS again;
SELECT ends_at FROM recurring_bonuses WHERE id = :'eve_stops';
SELECT metric, success, reason, period, action, actor = session_user AS actor, detail, created_at
	FROM quota_audit_log WHERE user_id = :'eve' AND action = 'stop_recurring_bonus';
SELECT * FROM pg_temp.take(:'eve', 'recurring_other', 1);
SET quota.test_clock = '2026-04-10 12:00:00+00';
SELECT * FROM pg_temp.ask(:'eve', 'recurring_other', 1);
SELECT * FROM pg_temp.given(:'eve', 'recurring_other');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- the same where nobody has called before
SELECT set_recurring_bonus(:'oto', 'recurring_calls', 5, 'month', 'oto stops') AS oto_stops \gset
SET quota.test_clock = '2026-03-20 00:00:00+00';
SELECT stop_recurring_bonus(:'oto_stops') AS stopped;
SELECT * FROM pg_temp.ask(:'oto', 'recurring_calls', 1);
SET quota.test_clock = '2026-04-10 11:59:59.999999+00';
SELECT * FROM pg_temp.ask(:'oto', 'recurring_calls', 1);
SET quota.test_clock = '2026-04-10 12:00:00+00';
SELECT * FROM pg_temp.ask(:'oto', 'recurring_calls', 1);
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- One that was taken back does not come back; that of the next period comes ----------------------------------

SELECT set_recurring_bonus(:'fay', 'recurring_calls', 5, 'month', 'monthly') IS NOT NULL AS set;
SELECT set_recurring_bonus(:'fay', 'recurring_other', 2, 'week', 'weekly', p_accumulates := true) IS NOT NULL AS set;
SELECT * FROM pg_temp.take(:'fay', 'recurring_calls', 11);
SELECT * FROM pg_temp.take(:'fay', 'recurring_other', 11);
SELECT metric, void_bonus(id, 'mistake') AS taken_back FROM user_bonuses WHERE user_id = :'fay' ORDER BY metric;
SELECT * FROM pg_temp.ask(:'fay', 'recurring_calls', 1);
SELECT * FROM pg_temp.ask(:'fay', 'recurring_other', 1);
SELECT tidy_account(:'fay', 'recurring_calls'), tidy_account(:'fay', 'recurring_other');
SET quota.test_clock = '2026-03-25 00:00:00+00';
SELECT * FROM pg_temp.take(:'fay', 'recurring_calls', 1);
SELECT * FROM pg_temp.take(:'fay', 'recurring_other', 1);
SET quota.test_clock = '2026-04-10 12:00:00+00';
SELECT * FROM pg_temp.take(:'fay', 'recurring_calls', 11);
SELECT * FROM pg_temp.given(:'fay', 'recurring_calls');
SELECT * FROM pg_temp.given(:'fay', 'recurring_other');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- A denial knows when the next one comes ----------------------------------------------------------------------

-- 3 a week: on 17 March, a week from now; more than 3 on 1 April only; 14 (with the 3 of then) never
SELECT set_recurring_bonus(:'gus', 'recurring_calls', 3, 'week') IS NOT NULL AS set;
SELECT * FROM pg_temp.take(:'gus', 'recurring_calls', 13);
SELECT * FROM pg_temp.ask(:'gus', 'recurring_calls', 3);
SELECT * FROM pg_temp.ask(:'gus', 'recurring_calls', 3.000001);
SELECT * FROM pg_temp.ask(:'gus', 'recurring_calls', 13);
SELECT * FROM pg_temp.ask(:'gus', 'recurring_calls', 14);
-- those that accumulate: 5 of them after two weeks (3 + 3), 9 after three, but 10 on 1 April, which is no later than the
-- fourth; 16 and 22 later: 10 + 9 on 1 April, 10 + 12 on 7 April
SELECT set_recurring_bonus(:'gus', 'recurring_other', 3, 'week', p_accumulates := true) IS NOT NULL AS set;
SELECT * FROM pg_temp.take(:'gus', 'recurring_other', 13);
SELECT amount, retry_after FROM unnest(ARRAY[1, 3, 5, 9, 10, 16, 19, 22]) AS amount, LATERAL pg_temp.ask(:'gus', 'recurring_other', amount) ORDER BY 1;

-- In the subject's time zone, from its anchor on -----------------------------------------------------------------

-- Berlin, 31 January 10:00: to 28 February 10:00 (09:00 UTC), 31 March 10:00 (08:00 UTC), 30 April 10:00
SELECT set_recurring_bonus(:'hal', 'recurring_calls', 5, p_anchor := '2026-01-31 10:00+01') IS NOT NULL AS set;
SET quota.test_clock = '2026-02-01 12:00:00+00';
SELECT tidy_account(:'hal', 'recurring_calls');
SET quota.test_clock = '2026-02-28 08:59:59.999999+00';
SELECT tidy_account(:'hal', 'recurring_calls');
SET quota.test_clock = '2026-02-28 09:00:00+00';
SELECT tidy_account(:'hal', 'recurring_calls');
SET quota.test_clock = '2026-03-31 07:59:59.999999+00';
SELECT * FROM pg_temp.take(:'hal', 'recurring_calls', 15);
SET quota.test_clock = '2026-03-31 08:00:00+00';
SELECT * FROM pg_temp.take(:'hal', 'recurring_calls', 5);
SELECT * FROM pg_temp.given(:'hal', 'recurring_calls');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Order and kinds ---------------------------------------------------------------------------------------------------

-- a lower number first; of equal ones that which ends first; two for one metric are two
SELECT set_recurring_bonus(:'ida', 'recurring_calls', 1, 'year', 'C yearly') IS NOT NULL AS set,
	set_recurring_bonus(:'ida', 'recurring_calls', 1, 'week', 'B weekly') IS NOT NULL AS set,
	set_recurring_bonus(:'ida', 'recurring_calls', 1, 'year', 'A yearly, first', p_priority := -1) IS NOT NULL AS set,
	grant_bonus(:'ida', 'recurring_calls', 1, NULL, 'D granted, for ever') IS NOT NULL AS granted;
SELECT * FROM pg_temp.take(:'ida', 'recurring_calls', 10);
SELECT (o).bonus_used, (o).bonus_remaining
	FROM (SELECT check_and_consume_quota(:'ida', 'recurring_calls', 1, NULL, jsonb_build_object('nr', nr)) AS o
		FROM generate_series(1, 4) AS nr OFFSET 0) AS s;
SELECT e.metadata -> 'nr' AS nr, b.reason FROM usage_events e
	JOIN bonus_allocations a ON a.event_id = e.id JOIN user_bonuses b ON b.id = a.bonus_id WHERE e.user_id = :'ida' ORDER BY 1;
-- without a reason
SELECT set_recurring_bonus(:'ida', 'recurring_other', 1.5, 'day') IS NOT NULL AS set;
SELECT * FROM pg_temp.take(:'ida', 'recurring_other', 11);
SELECT * FROM pg_temp.given(:'ida', 'recurring_other');
-- unlimited takes nothing of it; a gauge does; a metric that no plan lists has nothing to extend
SELECT set_recurring_bonus(:'jon', 'recurring_free', 5) IS NOT NULL AS set, set_recurring_bonus(:'jon', 'recurring_seats', 5) IS NOT NULL AS set,
	set_recurring_bonus(:'jon', 'recurring_unlisted', 5) IS NOT NULL AS set;
SELECT * FROM pg_temp.take(:'jon', 'recurring_free', 5);
SELECT * FROM pg_temp.take(:'jon', 'recurring_seats', 3);
SELECT * FROM pg_temp.take(:'jon', 'recurring_unlisted', 1);
SELECT metric, amount, used_amount FROM user_bonuses WHERE user_id = :'jon' ORDER BY 1;
-- soft: before what has its price
SELECT set_recurring_bonus(:'jon', 'recurring_soft', 5) IS NOT NULL AS set;
SELECT allowed, reason, bonus_used, overage, cost FROM check_and_consume_quota(:'jon', 'recurring_soft', 17);
-- other metrics and other subjects have none of it; a parent has its own
SELECT * FROM pg_temp.ask(:'jon', 'recurring_calls', 11);
SELECT set_recurring_bonus(:'team', 'recurring_calls', 5) IS NOT NULL AS set, set_recurring_bonus(:'tom', 'recurring_calls', 50) IS NOT NULL AS set;
SELECT * FROM pg_temp.take(:'tom', 'recurring_calls', 16);
SELECT * FROM pg_temp.take(:'tom', 'recurring_calls', 15);
SELECT * FROM pg_temp.given(:'team', 'recurring_calls');
SELECT * FROM pg_temp.given(:'tom', 'recurring_calls');

-- Held over the end: valid for the reservation's time
SELECT set_recurring_bonus(:'kim', 'recurring_calls', 5, 'day') IS NOT NULL AS set;
SET quota.test_clock = '2026-03-11 11:59:00+00';
SELECT reservation_id AS hold FROM reserve_quota(:'kim', 'recurring_calls', 15, '10 minutes') \gset
SET quota.test_clock = '2026-03-11 12:01:00+00';
SELECT * FROM pg_temp.ask(:'kim', 'recurring_calls', 5);
SELECT granted, bonus_used, used, bonus_remaining FROM settle_reservation(:'hold', 14);
SELECT * FROM pg_temp.given(:'kim', 'recurring_calls');
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- In a transaction -------------------------------------------------------------------------------------------------------

BEGIN;
SELECT set_recurring_bonus(:'lee', 'recurring_calls', 5) IS NOT NULL AS set;
SELECT * FROM pg_temp.take(:'lee', 'recurring_calls', 11);
ROLLBACK;
SELECT * FROM pg_temp.ask(:'lee', 'recurring_calls', 11);
BEGIN;
SAVEPOINT a;
SELECT set_recurring_bonus(:'lee', 'recurring_calls', 5) IS NOT NULL AS set;
ROLLBACK TO a;
SELECT * FROM pg_temp.ask(:'lee', 'recurring_calls', 11);
COMMIT;
SELECT set_recurring_bonus(:'lee', 'recurring_calls', 5) AS lee_five \gset
BEGIN;
SELECT * FROM pg_temp.take(:'lee', 'recurring_calls', 11);
ROLLBACK;
SELECT * FROM pg_temp.given(:'lee', 'recurring_calls');
BEGIN READ ONLY;
SELECT * FROM pg_temp.ask(:'lee', 'recurring_calls', 15);
COMMIT;
-- two calls of one statement, or of one batch, get it once
SELECT (o).allowed, (o).remaining, (o).bonus_remaining
	FROM (SELECT check_and_consume_quota(:'lee', 'recurring_calls', 7) AS o FROM generate_series(1, 2) OFFSET 0) AS s;
SELECT allowed, remaining, bonus_remaining
	FROM consume_quota_batch(ARRAY[:'lee', :'lee']::uuid[], ARRAY['recurring_calls', 'recurring_calls']);
SELECT * FROM pg_temp.given(:'lee', 'recurring_calls');
-- the table is read as it is now: changed, and deleted, by its owner
SET quota.test_clock = '2026-04-10 12:00:00+00';
UPDATE recurring_bonuses SET amount = 7 WHERE id = :'lee_five';
SELECT * FROM pg_temp.ask(:'lee', 'recurring_calls', 17);
DELETE FROM recurring_bonuses WHERE id = :'lee_five';
SELECT * FROM pg_temp.ask(:'lee', 'recurring_calls', 17);
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Bad input: each argument, and nothing is written ------------------------------------------------------------------------

CREATE FUNCTION pg_temp.sqlstate_of(p_call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SELECT quota.' || p_call;
	RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
	RETURN CASE SQLSTATE WHEN 'ZZ000' THEN 'ok' ELSE SQLSTATE END;
END
$$;
SELECT count(*) AS before FROM recurring_bonuses \gset
SELECT call, pg_temp.sqlstate_of(call) FROM unnest(ARRAY[
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 0.000001, '2 weeks', NULL, NULL, true, -2147483648, '9999-12-31 00:00+00')$$,
	$$set_recurring_bonus(NULL, 'recurring_calls', 5)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, NULL, 5)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, '', 5)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_nonsense', 5)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', NULL)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 0)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', -5)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 'NaN')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 'Infinity')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 0.0000001)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 1e18)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, NULL)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, '')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, 'fortnight')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, '0 days')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, '-1 month')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, 'lifetime')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, 'month', p_anchor := 'infinity')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, 'month', p_anchor := '-infinity')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, 'month', p_anchor := '0001-12-31 00:00+00 BC')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, 'month', p_anchor := '10000-01-01 00:00+00')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, p_accumulates := NULL)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, p_priority := NULL)$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, p_ends_at := 'infinity')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, p_ends_at := '-infinity')$$,
	$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5, p_ends_at := '2026-03-10 12:00+00')$$,
	$$stop_recurring_bonus(NULL)$$,
	$$stop_recurring_bonus(md5('recurring nobody')::uuid, 'never was')$$]) AS call;
-- the table itself refuses the same
SELECT statement, pg_temp.sqlstate_of('clock(); INSERT INTO quota.recurring_bonuses (user_id, metric, ' || statement) FROM unnest(ARRAY[
	$$amount, period) VALUES (md5('recurring ann')::uuid, 'recurring_calls', 5, '7 days')$$,
	$$amount, period) VALUES (md5('recurring ann')::uuid, 'recurring_calls', 0, 'month')$$,
	$$amount, period) VALUES (md5('recurring ann')::uuid, 'recurring_calls', 'NaN', 'month')$$,
	$$amount, period) VALUES (md5('recurring ann')::uuid, 'recurring_calls', 0.0000001, 'month')$$,
	$$amount, period) VALUES (md5('recurring ann')::uuid, 'recurring_calls', 5, 'lifetime')$$,
	$$amount, period) VALUES (md5('recurring ann')::uuid, 'recurring_calls', 5, 'fortnight')$$,
	$$amount, period) VALUES (md5('recurring ann')::uuid, 'recurring_calls', 5, NULL)$$,
	$$amount, period) VALUES (md5('recurring ann')::uuid, 'recurring_nonsense', 5, 'month')$$,
	$$amount, period, anchor) VALUES (md5('recurring ann')::uuid, 'recurring_calls', 5, 'month', 'infinity')$$]) AS statement;
SELECT count(*) = :'before' AS nothing_written FROM recurring_bonuses;

-- Who may: admins only ---------------------------------------------------------------------------------------------------------

SET client_min_messages = 'warning';
CREATE ROLE regress_quota_recurring_none;
CREATE ROLE regress_quota_recurring_app;
CREATE ROLE regress_quota_recurring_monitor;
CREATE ROLE regress_quota_recurring_admin;
SELECT grant_access('regress_quota_recurring_app', 'app');
SELECT grant_access('regress_quota_recurring_monitor', 'monitor');
SELECT grant_access('regress_quota_recurring_admin', 'admin');
-- (whoever asks cannot read the table)
CREATE FUNCTION pg_temp.some_recurring() RETURNS uuid LANGUAGE sql SECURITY DEFINER AS $$
	SELECT id FROM quota.recurring_bonuses WHERE reason = 'five a month'
$$;
CREATE FUNCTION pg_temp.as_role(p_role text, p_call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	v_state	text;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', p_role);
	v_state := pg_temp.sqlstate_of(p_call);
	RESET ROLE;
	RETURN v_state;
END
$$;
SELECT call,
	pg_temp.as_role('regress_quota_recurring_none', call) AS nobody, pg_temp.as_role('regress_quota_recurring_app', call) AS app,
	pg_temp.as_role('regress_quota_recurring_monitor', call) AS monitor, pg_temp.as_role('regress_quota_recurring_admin', call) AS admin
	FROM unnest(ARRAY[
		$$set_recurring_bonus(md5('recurring ann')::uuid, 'recurring_calls', 5)$$,
		$$stop_recurring_bonus((SELECT pg_temp.some_recurring()))$$,
		$$tidy_account(md5('recurring ann')::uuid, 'recurring_calls')$$]) AS call;
-- what is due is given by the calls of whoever may consume, without rights on tables
SET quota.test_clock = '2026-08-10 12:00:00+00';
SET ROLE regress_quota_recurring_app;
SELECT * FROM pg_temp.take(:'ann', 'recurring_calls', 11);
RESET ROLE;
SELECT * FROM pg_temp.given(:'ann', 'recurring_calls');
DROP OWNED BY regress_quota_recurring_app, regress_quota_recurring_monitor, regress_quota_recurring_admin;
DROP ROLE regress_quota_recurring_none, regress_quota_recurring_app, regress_quota_recurring_monitor, regress_quota_recurring_admin;
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Books
SELECT count(*) FROM user_bonuses WHERE metric LIKE 'recurring%' AND (used_amount < 0 OR used_amount > amount);
SELECT user_id, metric, period, counter FROM verify_ledger() WHERE metric LIKE 'recurring%';
RESET quota.test_clock;

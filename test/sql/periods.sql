-- Periods: where they begin and end, and how accounts move through them.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';

-- The period that contains an instant, as the clock of the zone shows it
CREATE FUNCTION pg_temp.show(p_period text, p_anchor timestamptz, p_zone text, p_at timestamptz,
	OUT starts timestamp, OUT ends timestamp, OUT lasts interval)
	LANGUAGE sql AS $$
	SELECT b.period_start AT TIME ZONE p_zone, b.period_end AT TIME ZONE p_zone, b.period_end - b.period_start
		FROM period_bounds(p_period, p_anchor, p_zone, p_at) AS b
$$;

-- Month and year ends ------------------------------------------------------------

-- always counted from the original anchor: the 31st is the 31st again after February
SELECT d AS at, s.* FROM unnest(ARRAY['2026-01-31 10:00+00', '2026-02-28 09:59:59.999999+00', '2026-02-28 10:00+00', '2026-03-30 23:00+00',
		'2026-03-31 10:00+00', '2026-04-30 10:00+00', '2026-12-31 10:00+00', '2028-02-29 09:00+00', '2028-02-29 10:00+00',
		'2028-03-31 10:00+00', '2026-01-31 09:59+00', '2025-02-28 12:00+00']::timestamptz[]) AS d,
	pg_temp.show('month', '2026-01-31 10:00+00', 'UTC', d) AS s;
SELECT d AS at, s.* FROM unnest(ARRAY['2024-02-29 00:00+00', '2025-02-27 23:59+00', '2025-02-28 00:00+00', '2026-02-28 00:00+00',
		'2027-12-31 00:00+00', '2028-02-28 23:59+00', '2028-02-29 00:00+00', '2024-02-28 23:59+00', '2100-02-28 00:00+00']::timestamptz[]) AS d,
	pg_temp.show('year', '2024-02-29 00:00+00', 'UTC', d) AS s;
SELECT p AS period, s.* FROM unnest(ARRAY['quarter', '2 quarters', '5 months', '2 years', '18 months']) AS p,
	pg_temp.show(p, '2025-08-31 00:00+00', 'UTC', '2026-03-10 12:00+00') AS s;

-- The calendar -----------------------------------------------------------------------

SELECT p AS period, s.* FROM unnest(ARRAY['minute', '5 minutes', '7 minutes', 'hour', '6 hours', 'day', '3 days', 'week', '2 weeks',
		'month', '3 months', '5 months', 'quarter', 'year', '3 years']) AS p,
	pg_temp.show(p, NULL, 'UTC', '2026-03-10 12:34:56.789+00') AS s;
-- weeks begin on Monday, in the subject's zone
SELECT d AS at, s.* FROM unnest(ARRAY['2026-03-08 23:59:59+00', '2026-03-09 00:00:00+00', '1999-12-31 00:00+00']::timestamptz[]) AS d,
	pg_temp.show('week', NULL, 'UTC', d) AS s;
SELECT extract(isodow FROM s.starts) AS weekday, s.* FROM pg_temp.show('week', NULL, 'Asia/Tokyo', '2026-03-08 16:00+00') AS s;
-- before the calendar's origin
SELECT p AS period, s.* FROM unnest(ARRAY['hour', 'day', 'week', 'month', 'quarter', 'year']) AS p,
	pg_temp.show(p, NULL, 'UTC', '1999-12-31 23:59:59.999999+00') AS s;

-- Days around clock changes ---------------------------------------------------------------

-- New York: 23 and 25 hours
SELECT s.* FROM unnest(ARRAY['2024-03-09 17:00+00', '2024-03-10 17:00+00', '2024-11-02 17:00+00', '2024-11-03 17:00+00', '2024-11-04 17:00+00']::timestamptz[]) AS d,
	pg_temp.show('day', NULL, 'America/New_York', d) AS s;
-- a boundary at 02:30, which does not exist on the 10th, and at 01:30, which comes twice on 3 November
SELECT b.* FROM unnest(ARRAY['2024-03-09 12:00+00', '2024-03-10 12:00+00', '2024-03-11 12:00+00']::timestamptz[]) AS d,
	period_bounds('day', '2024-01-01 02:30 America/New_York', 'America/New_York', d) AS b;
SELECT b.* FROM unnest(ARRAY['2024-11-02 12:00+00', '2024-11-03 05:30+00', '2024-11-03 06:29:59+00', '2024-11-03 06:30+00', '2024-11-04 12:00+00']::timestamptz[]) AS d,
	period_bounds('day', '2024-01-01 01:30 America/New_York', 'America/New_York', d) AS b;
-- Havana changes at midnight: a day begins at 01:00, and a midnight comes twice
SELECT d, s.* FROM unnest(ARRAY['2024-03-09 12:00+00', '2024-03-10 04:59:59+00', '2024-03-10 05:00+00', '2024-03-11 12:00+00',
		'2024-11-02 12:00+00', '2024-11-03 04:30+00', '2024-11-03 05:00+00', '2024-11-04 12:00+00']::timestamptz[]) AS d,
	pg_temp.show('day', NULL, 'America/Havana', d) AS s;
-- Apia went from the 29th to the 31st of December 2011
SELECT d, s.* FROM unnest(ARRAY['2011-12-29 12:00+00', '2011-12-30 09:59:59.999999+00', '2011-12-30 10:00+00', '2011-12-31 12:00+00']::timestamptz[]) AS d,
	pg_temp.show('day', NULL, 'Pacific/Apia', d) AS s;
SELECT p AS period, d, b.* FROM unnest(ARRAY['week', 'month', '3 days']) AS p,
	unnest(ARRAY['2011-12-30 09:59:59+00', '2011-12-30 10:00+00']::timestamptz[]) AS d,
	period_bounds(p, '2011-12-30 08:00+00', 'Pacific/Apia', d) AS b;
-- an anniversary on the day that was left out
SELECT b.* FROM period_bounds('month', '2011-11-30 12:00 Pacific/Apia', 'Pacific/Apia', '2012-01-02 00:00+00') AS b;
-- Lord Howe moves by half an hour
SELECT s.* FROM unnest(ARRAY['2024-04-06 12:00+00', '2024-04-07 12:00+00', '2024-10-05 12:00+00', '2024-10-06 12:00+00']::timestamptz[]) AS d,
	pg_temp.show('day', NULL, 'Australia/Lord_Howe', d) AS s;

-- Minutes and hours are elapsed time, whatever the clock on the wall does --------------------

SELECT d, b.*, b.period_end - b.period_start AS lasts
	FROM unnest(ARRAY['2024-11-03 05:59:59+00', '2024-11-03 06:00+00', '2024-11-03 06:30+00', '2024-03-10 06:59:59+00', '2024-03-10 07:00+00']::timestamptz[]) AS d,
		period_bounds('hour', NULL, 'America/New_York', d) AS b;
SELECT d, s.* FROM unnest(ARRAY['2024-04-06 14:45+00', '2024-04-06 15:15+00', '2024-10-05 15:45+00']::timestamptz[]) AS d,
	pg_temp.show('hour', NULL, 'Australia/Lord_Howe', d) AS s;
SELECT d, b.* FROM unnest(ARRAY['2024-03-09 20:00+00', '2024-03-10 08:00+00', '2024-11-03 12:00+00']::timestamptz[]) AS d,
	period_bounds('24 hours', '2024-01-01 00:00 America/New_York', 'America/New_York', d) AS b;
SELECT s.* FROM pg_temp.show('30 minutes', NULL, 'Asia/Kathmandu', '2026-03-10 12:00+00') AS s;

-- An anchor in the future counts backwards ----------------------------------------------------

SELECT p AS period, s.* FROM unnest(ARRAY['month', 'day', 'week', 'year', '5 minutes']) AS p,
	pg_temp.show(p, '2026-08-31 10:02+00', 'UTC', '2026-03-10 12:00+00') AS s;

-- lifetime has no bounds
SELECT * FROM quota.period_bounds('lifetime', '2026-01-01 00:00+00', 'UTC', '2026-03-10 12:00+00');

-- All boundaries of three years, by local arithmetic of PostgreSQL itself ------------------------

CREATE TEMP TABLE starts AS
	SELECT DISTINCT zone, period, anchor, instant AS starts
	FROM unnest(ARRAY['UTC', 'America/New_York', 'America/Havana', 'Pacific/Apia', 'Australia/Lord_Howe', 'Asia/Kathmandu', 'Africa/Casablanca']) AS zone,
		unnest(ARRAY['2010-12-31 00:00', '2010-10-30 02:15:00.000001', '2012-02-29 23:59:59']::timestamp[]) AS origin,
		(VALUES ('day', interval '1 day'), ('3 days', '3 days'), ('week', '7 days'), ('2 weeks', '14 days'), ('month', '1 month'),
			('5 months', '5 months'), ('quarter', '3 months'), ('year', '1 year'), ('2 years', '2 years')) AS p (period, step),
		generate_series(-1000, 1000) AS k,
		LATERAL (SELECT origin AT TIME ZONE zone AS anchor, (origin + k * step) AT TIME ZONE zone AS instant) AS i
	WHERE instant BETWEEN '2010-06-01' AND '2013-06-01';
SELECT count(*) > 10000 AS many, count(*) FILTER (WHERE NOT (at_start = ROW(starts, ends)::text)) AS wrong_at_start,
		count(*) FILTER (WHERE NOT (at_end = ROW(starts, ends)::text)) AS wrong_before_end
	FROM (SELECT starts, ends,
			(SELECT ROW(b.*)::text FROM period_bounds(period, anchor, zone, starts) AS b) AS at_start,
			(SELECT ROW(b.*)::text FROM period_bounds(period, anchor, zone, ends - interval '1 microsecond') AS b) AS at_end
		FROM (SELECT *, lead(starts) OVER (PARTITION BY zone, period, anchor ORDER BY starts) AS ends FROM starts) AS s
		WHERE ends IS NOT NULL) AS t;

-- Accounts move through periods -----------------------------------------------------------------

INSERT INTO metrics (metric) VALUES ('periods_calls'), ('periods_first'), ('periods_day'), ('periods_minute'), ('periods_life'), ('periods_weeks');
INSERT INTO plans (plan) VALUES ('periods_plan'), ('periods_big'), ('periods_small'), ('periods_daily');
INSERT INTO plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	('periods_plan', 'periods_calls', '1 month', 10, 'subscription'),
	('periods_plan', 'periods_first', 'months', 10, 'first_use'),
	('periods_plan', 'periods_day', 'day', 10, 'calendar'),
	('periods_plan', 'periods_minute', 'minute', 10, 'calendar'),
	('periods_plan', 'periods_life', 'lifetime', 10, 'calendar'),
	('periods_plan', 'periods_weeks', '2 weeks', 10, 'first_use'),
	('periods_big', 'periods_calls', 'month', 100, 'subscription'),
	('periods_small', 'periods_calls', 'month', 3, 'subscription'),
	('periods_daily', 'periods_calls', 'day', 5, 'calendar');
-- one spelling
SELECT metric, period FROM plan_limits WHERE plan = 'periods_plan' ORDER BY metric;
SELECT canonical_period(p) FROM unnest(ARRAY['1 month', 'months', '5 minutes', '5 minute', '1 years', '9999 quarters']) AS p;
SELECT canonical_period('fortnight');
SELECT canonical_period('');
SELECT canonical_period('0 days');
SELECT canonical_period('-1 days');
SELECT canonical_period('10000 days');
SELECT canonical_period('99999999999999999999 days');
SELECT canonical_period('2 lifetime');
SELECT canonical_period('5  minutes');
SELECT canonical_period('Day');
SELECT canonical_period('daysx');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('periods_plan', 'periods_calls', 'fortnight', 10);
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('periods_plan', 'periods_calls', '1 month', 10);

SELECT md5('periods ann')::uuid AS ann, md5('periods ben')::uuid AS ben, md5('periods cat')::uuid AS cat, md5('periods dan')::uuid AS dan,
	md5('periods eve')::uuid AS eve, md5('periods fay')::uuid AS fay, md5('periods gus')::uuid AS gus, md5('periods hal')::uuid AS hal \gset
INSERT INTO subscriptions (user_id, plan, anchor, time_zone) VALUES
	(:'ann', 'periods_plan', '2026-01-31 10:00+00', 'UTC'),
	(:'ben', 'periods_plan', '2026-01-31 10:00+00', 'America/New_York'),
	(:'cat', 'periods_plan', '2026-01-15 00:00+00', 'UTC'),
	(:'dan', 'periods_plan', '2026-01-15 00:00+00', 'UTC'),
	(:'eve', 'periods_plan', '2026-01-15 00:00+00', 'UTC'),
	(:'fay', 'periods_plan', '2026-01-15 00:00+00', 'UTC'),
	(:'gus', 'periods_plan', '2026-08-31 00:00+00', 'UTC');
-- open and closed periods of a subject's account
CREATE FUNCTION pg_temp.account(p_user_id uuid, p_metric text, OUT period text, OUT period_start timestamptz, OUT period_end timestamptz,
	OUT used numeric, OUT anchor timestamptz, OUT closed_at timestamptz, OUT closed_limit numeric)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT h.period, h.period_start, h.period_end, h.used, NULL, h.closed_at, h.limit_amount
		FROM quota.usage_history h WHERE h.user_id = p_user_id AND h.metric = p_metric
	UNION ALL
	SELECT t.period, t.period_start, t.period_end, t.used, t.anchor, NULL, NULL
		FROM quota.usage_tracking t WHERE t.user_id = p_user_id AND t.metric = p_metric
	ORDER BY 1, 2
$$;

-- 31 January, month by month; the end is exclusive
SET quota.test_clock = '2026-02-28 09:59:59.999999+00';
SELECT allowed, remaining, period_start, resets_at FROM check_and_consume_quota(:'ann', 'periods_calls', 10);
SELECT allowed, remaining, retry_after FROM check_and_consume_quota(:'ann', 'periods_calls', 1);
SET quota.test_clock = '2026-02-28 10:00:00+00';
SELECT allowed, remaining, period_start, resets_at FROM check_and_consume_quota(:'ann', 'periods_calls', 1);
SET quota.test_clock = '2026-03-31 10:00:00+00';
SELECT allowed, remaining, period_start, resets_at FROM check_and_consume_quota(:'ann', 'periods_calls', 2);
SET quota.test_clock = '2028-02-29 10:00:00+00';
SELECT allowed, remaining, period_start, resets_at FROM check_and_consume_quota(:'ann', 'periods_calls', 3);
-- periods in which nothing happened leave nothing: one row for each that was closed
SELECT * FROM pg_temp.account(:'ann', 'periods_calls');
-- a denial does not close a period, the next grant does
SET quota.test_clock = '2028-06-29 10:00:00+00';
SELECT allowed, remaining, used, period_start FROM check_and_consume_quota(:'ann', 'periods_calls', 11);
SELECT count(*) FROM usage_history WHERE user_id = :'ann';
SELECT allowed, used FROM check_and_consume_quota(:'ann', 'periods_calls', 10);
SELECT * FROM pg_temp.account(:'ann', 'periods_calls') WHERE closed_at IS NULL OR closed_at >= '2028-06-01';

-- the same anchor in New York is 05:00 there, in summer too
SET quota.test_clock = '2026-03-30 12:00:00+00';
SELECT period_start, resets_at FROM check_and_consume_quota(:'ben', 'periods_calls', 1);
-- and the day is New York's
SELECT period_start, resets_at FROM check_and_consume_quota(:'ben', 'periods_day', 1);

-- First use is the anchor; a denied call is no use
SET quota.test_clock = '2026-01-20 00:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'cat', 'periods_first', 11);
SET quota.test_clock = '2026-01-31 10:00:00.123456+00';
SELECT allowed, period_start, resets_at FROM check_quota(:'cat', 'periods_first', 1);
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'cat', 'periods_first', 1);
SET quota.test_clock = '2026-03-05 00:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'cat', 'periods_first', 1);
SET quota.test_clock = '2026-04-05 00:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'cat', 'periods_first', 1);
SELECT * FROM pg_temp.account(:'cat', 'periods_first');
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'cat', 'periods_weeks', 1);
SET quota.test_clock = '2026-04-10 12:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'cat', 'periods_weeks', 1);
-- a subject without a subscription has no anniversary: its first use counts
SET quota.default_plan = 'periods_plan';
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'hal', 'periods_calls', 1);
SET quota.test_clock = '2026-05-10 11:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'hal', 'periods_calls', 1);
SELECT * FROM pg_temp.account(:'hal', 'periods_calls');
RESET quota.default_plan;

-- A subscription that begins in the future
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'gus', 'periods_calls', 1);

-- lifetime begins with the first use and has no end
SELECT allowed, remaining, period_start, resets_at FROM check_and_consume_quota(:'gus', 'periods_life', 4);
SET quota.test_clock = '2036-03-10 12:00:00+00';
SELECT allowed, remaining, period_start, resets_at FROM check_and_consume_quota(:'gus', 'periods_life', 5);
SELECT allowed, remaining, retry_after FROM check_and_consume_quota(:'gus', 'periods_life', 5);
SELECT * FROM pg_temp.account(:'gus', 'periods_life');

-- A clock that steps back: the account's time does not ----------------------------------------------

SET quota.test_clock = '2026-03-10 12:00:30+00';
SELECT allowed, used, period_start FROM check_and_consume_quota(:'dan', 'periods_minute', 8);
SELECT allowed, used, period_start FROM check_and_consume_quota(:'dan', 'periods_life', 8);
SET quota.test_clock = '2026-03-10 11:58:30+00';
SELECT allowed, used, period_start, resets_at FROM check_quota(:'dan', 'periods_minute', 1);
SELECT allowed, used, period_start, resets_at FROM check_and_consume_quota(:'dan', 'periods_minute', 1);
-- the time to wait counts from the account's time
SELECT allowed, used, remaining, retry_after FROM check_and_consume_quota(:'dan', 'periods_minute', 5);
SELECT allowed, used, remaining FROM check_and_consume_quota(:'dan', 'periods_minute', 1);
SELECT allowed, used, period_start FROM check_and_consume_quota(:'dan', 'periods_life', 1);
SELECT metric, created_at, amount FROM usage_events WHERE user_id = :'dan' ORDER BY 1, 2, 3;
SELECT metric, created_at, attempted_amount, success FROM quota_audit_log WHERE user_id = :'dan' ORDER BY 1, 2, 3;
SELECT metric, a.* FROM unnest(ARRAY['periods_minute', 'periods_life']) AS metric, pg_temp.account(:'dan', metric) AS a;

-- Another plan in mid-period: what was used stays, the new limit counts at once -------------------------

SET quota.test_clock = '2026-03-20 12:00:00+00';
SELECT allowed, remaining, limit_amount, used FROM check_and_consume_quota(:'eve', 'periods_calls', 10);
SELECT allowed, remaining FROM check_and_consume_quota(:'eve', 'periods_calls', 1);
SELECT assign_plan(:'eve', 'periods_big');
SELECT allowed, remaining, limit_amount, used, period_start FROM check_and_consume_quota(:'eve', 'periods_calls', 50);
-- down again: below what was used there is nothing left, not less
SELECT assign_plan(:'eve', 'periods_small');
SELECT allowed, remaining, limit_amount, used, reason, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'eve', 'periods_calls', 1);
SELECT allowed, remaining, used FROM check_quota(:'eve', 'periods_calls', 1);
SELECT grant_bonus(:'eve', 'periods_calls', 2) IS NOT NULL AS granted;
SELECT allowed, remaining, used, bonus_used FROM check_and_consume_quota(:'eve', 'periods_calls', 1);
SET quota.test_clock = '2026-04-15 00:00:00+00';
SELECT allowed, remaining, limit_amount, used FROM check_and_consume_quota(:'eve', 'periods_calls', 3);
-- a plan with another window has an account of its own
SELECT assign_plan(:'eve', 'periods_daily');
SELECT allowed, remaining, limit_amount, used, period FROM check_and_consume_quota(:'eve', 'periods_calls', 4);
SELECT assign_plan(:'eve', 'periods_big');
SELECT allowed, remaining, limit_amount, used, period FROM check_and_consume_quota(:'eve', 'periods_calls', 1);
SELECT * FROM pg_temp.account(:'eve', 'periods_calls');
-- a plan that loses or changes a limit
UPDATE plan_limits SET limit_amount = 2 WHERE plan = 'periods_big';
SELECT allowed, remaining, limit_amount, used FROM check_and_consume_quota(:'eve', 'periods_calls', 1.5);
UPDATE plan_limits SET limit_amount = NULL WHERE plan = 'periods_big';
SELECT allowed, remaining, limit_amount, used FROM check_and_consume_quota(:'eve', 'periods_calls', 1);
DELETE FROM plan_limits WHERE plan = 'periods_big';
SELECT allowed, reason, remaining, limit_amount, used FROM check_and_consume_quota(:'eve', 'periods_calls', 1);

-- An anchor or zone that changes: the open period runs to its end, the next one joins on ----------------------

SET quota.test_clock = '2026-03-20 12:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'fay', 'periods_calls', 1);
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'fay', 'periods_day', 1);
SELECT assign_plan(:'fay', 'periods_plan', p_anchor => '2026-03-01 00:00+00', p_time_zone => 'Asia/Tokyo');
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'fay', 'periods_calls', 1);
SET quota.test_clock = '2026-04-15 00:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'fay', 'periods_calls', 1);
SET quota.test_clock = '2026-05-01 00:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'fay', 'periods_calls', 1);
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'fay', 'periods_day', 1);
SELECT * FROM pg_temp.account(:'fay', 'periods_calls');

-- A first use in the hour that a clock set back shows twice: the period starts there, not a month before ---------------

\set hal `echo 00000000-0000-4000-8000-0000000000e8`
INSERT INTO subscriptions (user_id, plan, anchor, time_zone) VALUES (:'hal', 'periods_plan', '2026-11-01 05:30+00', 'America/New_York');
SET quota.test_clock = '2026-11-01 05:30:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'hal', 'periods_first', 10);
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(:'hal', 'periods_calls', 10);
SET quota.test_clock = '2026-11-01 06:30:00+00';
SELECT allowed, remaining, period_start FROM check_and_consume_quota(:'hal', 'periods_first', 1);
SELECT allowed, remaining, period_start FROM check_and_consume_quota(:'hal', 'periods_calls', 1);

-- Years from 29 February, and days around the clock changes of Havana and Apia: each day has its own allowance ------------

INSERT INTO metrics (metric) VALUES ('periods_year');
INSERT INTO plan_limits (plan, metric, period, limit_amount, anchor) VALUES ('periods_plan', 'periods_year', 'year', 10, 'subscription');
CREATE FUNCTION pg_temp.life(p_name text, p_metric text, p_times text[], p_amount numeric, OUT at timestamptz, OUT allowed boolean, OUT used numeric,
	OUT period_start timestamptz, OUT resets_at timestamptz, OUT lasts interval) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
	v_time	text;
	v_o		quota.outcome;
BEGIN
	FOREACH v_time IN ARRAY p_times LOOP
		PERFORM set_config('quota.test_clock', v_time, false);
		v_o := check_and_consume_quota(md5(p_name)::uuid, p_metric, p_amount);
		at := v_time; allowed := v_o.allowed; used := v_o.used;
		period_start := v_o.period_start; resets_at := v_o.resets_at; lasts := resets_at - period_start;
		RETURN NEXT;
	END LOOP;
END
$$;
INSERT INTO subscriptions (user_id, plan, anchor, time_zone) VALUES
	(md5('periods leap')::uuid, 'periods_plan', '2024-02-29 00:00+00', 'UTC'),
	(md5('periods new york')::uuid, 'periods_plan', '2024-01-01 00:00+00', 'America/New_York'),
	(md5('periods havana')::uuid, 'periods_plan', '2024-01-01 00:00+00', 'America/Havana'),
	(md5('periods apia')::uuid, 'periods_plan', '2011-01-01 00:00+00', 'Pacific/Apia');
SELECT * FROM pg_temp.life('periods leap', 'periods_year', ARRAY['2024-02-29 00:00+00', '2025-02-27 23:59:59+00', '2025-02-28 00:00+00',
	'2026-02-28 00:00+00', '2027-12-31 00:00+00', '2028-02-28 23:59:59+00', '2028-02-29 00:00+00'], 6);
SELECT * FROM pg_temp.life('periods new york', 'periods_day', ARRAY['2024-03-10 04:59:59+00', '2024-03-10 05:00+00', '2024-03-11 03:59:59+00', '2024-03-11 04:00+00',
	'2024-11-03 03:59:59+00', '2024-11-03 04:00+00', '2024-11-04 04:59:59+00', '2024-11-04 05:00+00'], 6);
SELECT * FROM pg_temp.life('periods havana', 'periods_day', ARRAY['2024-03-10 04:59:59+00', '2024-03-10 05:00+00', '2024-03-11 03:59:59+00', '2024-03-11 04:00+00',
	'2024-11-03 03:59:59+00', '2024-11-03 04:30+00', '2024-11-03 05:30+00', '2024-11-04 04:59:59+00', '2024-11-04 05:00+00'], 6);
SELECT * FROM pg_temp.life('periods apia', 'periods_day', ARRAY['2011-12-29 10:00+00', '2011-12-30 09:59:59+00', '2011-12-30 10:00+00', '2011-12-31 09:59:59+00',
	'2011-12-31 10:00+00'], 6);

-- A limit that becomes a first_use one: an account that is there already is counted by the calendar
INSERT INTO metrics (metric) VALUES ('periods_turned');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('periods_plan', 'periods_turned', 'week', 10);
SET quota.test_clock = '2026-06-04 12:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(md5('periods leap')::uuid, 'periods_turned', 1);
UPDATE plan_limits SET anchor = 'first_use' WHERE plan = 'periods_plan' AND metric = 'periods_turned';
SET quota.test_clock = '2026-06-05 15:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(md5('periods leap')::uuid, 'periods_turned', 1);
SET quota.test_clock = '2026-06-13 15:00:00+00';
SELECT allowed, period_start, resets_at FROM check_and_consume_quota(md5('periods leap')::uuid, 'periods_turned', 1);

-- The clock is read at each call, not at the start of the statement or transaction --------------------------------------

RESET quota.test_clock;
BEGIN;
SELECT count(*) FILTER (WHERE (o).allowed) FROM (SELECT check_and_consume_quota(md5('periods leap')::uuid, 'periods_life', 1) AS o
	FROM generate_series(1, 2) OFFSET 0) AS s;
SELECT allowed FROM check_and_consume_quota(md5('periods leap')::uuid, 'periods_life', 1);
SELECT count(DISTINCT created_at) AS instants, min(created_at) > now() AS after_begin, max(created_at) <= clock_timestamp() AS before_now
	FROM usage_events WHERE user_id = md5('periods leap')::uuid AND metric = 'periods_life';
COMMIT;

-- Every charge lies in the period that counted it
SELECT v.metric, counter, recorded, expected FROM verify_ledger() AS v WHERE v.metric LIKE 'periods%';
SELECT count(*) FROM (SELECT period_start, lag(period_end) OVER (PARTITION BY user_id, metric, period ORDER BY period_start) AS before
	FROM (SELECT user_id, metric, period, period_start, period_end FROM usage_history
		UNION ALL SELECT user_id, metric, period, period_start, period_end FROM usage_tracking) AS p) AS o
	WHERE before > period_start;

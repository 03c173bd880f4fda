-- Bonuses: when they are used, in which order, and when no longer.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('bonuses_calls', 'counter'), ('bonuses_other', 'counter'), ('bonuses_free', 'counter'),
	('bonuses_closed', 'counter'), ('bonuses_unlisted', 'counter'), ('bonuses_seats', 'gauge');
INSERT INTO metric_aliases VALUES ('bonuses_requests', 'bonuses_calls');
INSERT INTO plans (plan) VALUES ('bonuses_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('bonuses_plan', 'bonuses_calls', 'month', 10),
	('bonuses_plan', 'bonuses_other', 'month', 10),
	('bonuses_plan', 'bonuses_free', 'month', NULL),
	('bonuses_plan', 'bonuses_closed', 'month', 0),
	('bonuses_plan', 'bonuses_seats', 'lifetime', 2);
SELECT md5('bonuses ann')::uuid AS ann, md5('bonuses ben')::uuid AS ben, md5('bonuses cat')::uuid AS cat,
	md5('bonuses dan')::uuid AS dan, md5('bonuses eve')::uuid AS eve, md5('bonuses fay')::uuid AS fay,
	md5('bonuses gus')::uuid AS gus, md5('bonuses hal')::uuid AS hal, md5('bonuses ida')::uuid AS ida \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'bonuses_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus', :'hal', :'ida']::uuid[]) AS u;

-- what is left of a subject's bonuses
CREATE FUNCTION pg_temp.bonuses(p_user_id uuid, OUT bonus text, OUT amount numeric, OUT used numeric, OUT available boolean)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT b.reason, trim_scale(b.amount), trim_scale(b.used_amount), b.available
		FROM quota.user_bonuses b WHERE b.user_id = p_user_id ORDER BY b.reason
$$;
-- which bonus paid for how much of each event, in the order of the events' amounts
CREATE FUNCTION pg_temp.allocations(p_user_id uuid, OUT event numeric, OUT bonus_used numeric, OUT bonus text, OUT paid numeric)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT trim_scale(e.amount), trim_scale(e.bonus_used), b.reason, trim_scale(a.amount)
		FROM quota.usage_events e
		JOIN quota.bonus_allocations a ON a.event_id = e.id
		JOIN quota.user_bonuses b ON b.id = a.bonus_id
		WHERE e.user_id = p_user_id ORDER BY e.amount, b.reason
$$;

-- After the allowance, and partly -----------------------------------------------

SELECT grant_bonus(:'ann', 'bonuses_calls', 3, NULL, 'A') IS NOT NULL AS granted;
-- the allowance comes first, what is left counts the bonus
SELECT allowed, remaining, limit_amount, bonus_used, reason, used, bonus_remaining FROM check_quota(:'ann', 'bonuses_calls', 8);
SELECT allowed, remaining, limit_amount, bonus_used, reason, used, bonus_remaining
	FROM check_and_consume_quota(:'ann', 'bonuses_calls', 8);
-- a bonus of 3 never pays 4 when 2 of the allowance are left and 6 are asked
SELECT allowed, remaining, bonus_used, reason, used, bonus_remaining FROM check_and_consume_quota(:'ann', 'bonuses_calls', 6);
-- 3 asked: 2 from the allowance, 1 from the bonus; the dry run says the same and tells the state before
SELECT allowed, remaining, bonus_used, reason, used, bonus_remaining FROM check_quota(:'ann', 'bonuses_calls', 3);
SELECT allowed, remaining, bonus_used, reason, used, bonus_remaining FROM check_and_consume_quota(:'ann', 'bonuses_calls', 3);
SELECT * FROM pg_temp.bonuses(:'ann');
-- and the whole rest, but not a millionth more
SELECT allowed, trim_scale(remaining) AS remaining, reason FROM check_and_consume_quota(:'ann', 'bonuses_calls', 2.000001);
SELECT allowed, remaining, bonus_used, reason, used, bonus_remaining FROM check_and_consume_quota(:'ann', 'bonuses_calls', 2);
SELECT allowed, remaining, bonus_used, reason, used, bonus_remaining FROM check_and_consume_quota(:'ann', 'bonuses_calls', 1);
SELECT * FROM pg_temp.bonuses(:'ann');
SELECT * FROM pg_temp.allocations(:'ann');
SELECT used, bonus_used FROM usage_tracking WHERE user_id = :'ann';
SELECT attempted_amount, success, reason, plan_limit, current_usage, remaining FROM quota_audit_log
	WHERE user_id = :'ann' AND action = 'consume' ORDER BY attempted_amount DESC;

-- A bonus of 3 never pays 5 ----------------------------------------------------------

SELECT grant_bonus(:'ben', 'bonuses_calls', 3, NULL, 'A') IS NOT NULL AS granted;
SELECT allowed FROM check_and_consume_quota(:'ben', 'bonuses_calls', 10);
SELECT allowed, remaining, bonus_used, reason, bonus_remaining FROM check_and_consume_quota(:'ben', 'bonuses_calls', 5);
SELECT * FROM pg_temp.bonuses(:'ben');
SELECT used, bonus_used FROM usage_tracking WHERE user_id = :'ben';
-- waiting does help, since the bonus is still there then; what is more than both does not
SELECT allowed, justify_hours(retry_after) AS retry_after FROM check_quota(:'ben', 'bonuses_calls', 13);
SELECT allowed, justify_hours(retry_after) AS retry_after FROM check_quota(:'ben', 'bonuses_calls', 14);
-- one that expires at the very moment of the reset is of no use to a later call
SELECT grant_bonus(:'ben', 'bonuses_calls', 5, '2026-04-01 00:00+00', 'B') IS NOT NULL AS granted;
SELECT allowed, remaining, justify_hours(retry_after) AS retry_after FROM check_quota(:'ben', 'bonuses_calls', 13);
SELECT allowed, remaining, justify_hours(retry_after) AS retry_after FROM check_quota(:'ben', 'bonuses_calls', 14);

-- Order: each of these is to be used before the next one -----------------------------------

INSERT INTO user_bonuses (user_id, metric, amount, priority, expires_at, source, granted_at, id, reason) VALUES
	(:'cat', 'bonuses_calls', 1, 60, NULL,                  'promotional', '2026-01-01 00:00+00', '00000000-0000-4000-8000-00000000ca01', '9 high priority number'),
	(:'cat', 'bonuses_calls', 1, 50, NULL,                  'paid',        '2026-02-01 00:00+00', '00000000-0000-4000-8000-00000000ca02', '8 paid, younger, id'),
	(:'cat', 'bonuses_calls', 1, 50, NULL,                  'paid',        '2026-02-01 00:00+00', '00000000-0000-4000-8000-00000000ca00', '7 paid, younger'),
	(:'cat', 'bonuses_calls', 1, 50, NULL,                  'paid',        '2026-01-01 00:00+00', '00000000-0000-4000-8000-00000000ca08', '6 paid, older'),
	(:'cat', 'bonuses_calls', 1, 50, NULL,                  'promotional', '2026-03-01 00:00+00', '00000000-0000-4000-8000-00000000ca07', '5 never expires, promotional'),
	(:'cat', 'bonuses_calls', 1, 50, '2026-06-01 00:00+00', 'promotional', '2026-01-01 00:00+00', '00000000-0000-4000-8000-00000000ca06', '4 expires later'),
	(:'cat', 'bonuses_calls', 1, 50, '2026-05-01 00:00+00', 'paid',        '2026-01-01 00:00+00', '00000000-0000-4000-8000-00000000ca05', '3 expires soon'),
	(:'cat', 'bonuses_calls', 1, 50, '2026-05-01 00:00+00', 'promotional', '2026-03-01 00:00+00', '00000000-0000-4000-8000-00000000ca04', '2 expires soon, promotional'),
	(:'cat', 'bonuses_calls', 1, -5, NULL,                  'paid',        '2026-03-01 00:00+00', '00000000-0000-4000-8000-00000000ca03', '1 negative priority number');
SELECT allowed, remaining, bonus_remaining FROM check_and_consume_quota(:'cat', 'bonuses_calls', 10);
SELECT (o).allowed, (o).bonus_used, (o).bonus_remaining, (o).reason
	FROM (SELECT check_and_consume_quota(:'cat', 'bonuses_calls', 1, NULL, jsonb_build_object('nr', nr)) AS o
		FROM generate_series(1, 9) AS nr OFFSET 0) AS s;
SELECT e.metadata -> 'nr' AS nr, b.reason AS bonus
	FROM usage_events e JOIN bonus_allocations a ON a.event_id = e.id JOIN user_bonuses b ON b.id = a.bonus_id
	WHERE e.user_id = :'cat' ORDER BY 1;

-- One call takes from many, a line for each -------------------------------------------------

INSERT INTO user_bonuses (user_id, metric, amount, used_amount, priority, reason) VALUES
	(:'dan', 'bonuses_calls', 0.5, 0,    1, 'A'),
	(:'dan', 'bonuses_calls', 7,   7,    2, 'B used up'),
	(:'dan', 'bonuses_calls', 2,   1.25, 3, 'C begun'),
	(:'dan', 'bonuses_calls', 3,   0,    4, 'D'),
	(:'dan', 'bonuses_calls', 9,   0,    5, 'E');
SELECT allowed, trim_scale(remaining) AS remaining, trim_scale(bonus_used) AS bonus_used, used, trim_scale(bonus_remaining) AS bonus_remaining
	FROM check_and_consume_quota(:'dan', 'bonuses_calls', 13);
SELECT * FROM pg_temp.allocations(:'dan');
SELECT * FROM pg_temp.bonuses(:'dan');
SELECT allowed, trim_scale(remaining) AS remaining, bonus_used, trim_scale(used) AS used
	FROM check_and_consume_quota(:'dan', 'bonuses_calls', 10.25);
SELECT * FROM pg_temp.bonuses(:'dan');
-- (what B and C had used before has no entries here)
SELECT metric, trim_scale(recorded) AS recorded, trim_scale(expected) AS expected FROM verify_ledger(:'dan') ORDER BY recorded;

-- Expiry is exclusive, to the microsecond ----------------------------------------------------

SELECT grant_bonus(:'eve', 'bonuses_calls', 5, '2026-03-10 18:00+00', 'A expires') IS NOT NULL AS granted,
	grant_bonus(:'eve', 'bonuses_calls', 4, NULL, 'B never expires') IS NOT NULL AS granted;
SET quota.test_clock = '2026-03-10 17:59:59.999999+00';
SELECT allowed, remaining, bonus_remaining FROM check_quota(:'eve', 'bonuses_calls', 19);
SELECT allowed, remaining, bonus_used, bonus_remaining FROM check_and_consume_quota(:'eve', 'bonuses_calls', 11);
SET quota.test_clock = '2026-03-10 18:00:00+00';
SELECT allowed, remaining, bonus_used, bonus_remaining, reason FROM check_quota(:'eve', 'bonuses_calls', 4);
SELECT allowed, remaining, bonus_used, bonus_remaining, reason FROM check_and_consume_quota(:'eve', 'bonuses_calls', 5);
SELECT allowed, remaining, bonus_used, bonus_remaining, reason FROM check_and_consume_quota(:'eve', 'bonuses_calls', 4);
SELECT allowed, remaining, bonus_used, bonus_remaining, reason FROM check_and_consume_quota(:'eve', 'bonuses_calls', 1);
SELECT * FROM pg_temp.bonuses(:'eve');
-- a bonus that is there for years still counts years later, an expired one does not come back
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT grant_bonus(:'eve', 'bonuses_calls', 2, NULL, 'C never expires') IS NOT NULL AS granted;
SET quota.test_clock = '2031-07-05 00:00:00+00';
SELECT allowed, remaining, bonus_used, used, bonus_remaining FROM check_and_consume_quota(:'eve', 'bonuses_calls', 12);
SELECT used, bonus_used FROM usage_tracking WHERE user_id = :'eve';
SELECT period_start, used, bonus_used FROM usage_history WHERE user_id = :'eve';
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- One metric's bonuses are no other metric's --------------------------------------------------

SELECT grant_bonus(:'fay', 'bonuses_requests', 3, NULL, 'A for calls, by the alias') IS NOT NULL AS granted,
	grant_bonus(:'fay', 'bonuses_other', 3, NULL, 'B for other') IS NOT NULL AS granted;
SELECT allowed, remaining, bonus_remaining FROM check_and_consume_quota(:'fay', 'bonuses_calls', 12);
SELECT allowed, remaining, bonus_remaining FROM check_and_consume_quota(:'fay', 'bonuses_calls', 2);
SELECT allowed, remaining, bonus_remaining FROM check_quota(:'fay', 'bonuses_other', 13);
SELECT * FROM pg_temp.bonuses(:'fay');
-- nor another subject's
SELECT allowed, remaining, bonus_remaining FROM check_quota(:'hal', 'bonuses_calls', 11);

-- Unlimited needs no bonus ----------------------------------------------------------------------

SELECT grant_bonus(:'gus', 'bonuses_free', 3, NULL, 'A for unlimited') IS NOT NULL AS granted;
SELECT allowed, remaining, limit_amount, bonus_used, reason, used, bonus_remaining FROM check_and_consume_quota(:'gus', 'bonuses_free', 5);
SELECT * FROM pg_temp.bonuses(:'gus');

-- A limit of 0 and a bonus: the bonus pays; no limit at all: there is no account to extend ----------

SELECT grant_bonus(:'hal', 'bonuses_closed', 3, NULL, 'A') IS NOT NULL AS granted,
	grant_bonus(:'hal', 'bonuses_unlisted', 3, NULL, 'B') IS NOT NULL AS granted;
SELECT allowed, remaining, limit_amount, bonus_used, reason, used, bonus_remaining FROM check_and_consume_quota(:'hal', 'bonuses_closed', 2);
SELECT allowed, remaining, limit_amount, bonus_used, reason, used, bonus_remaining FROM check_and_consume_quota(:'hal', 'bonuses_closed', 2);
SELECT allowed, remaining, limit_amount, bonus_used, reason, used, bonus_remaining FROM check_and_consume_quota(:'hal', 'bonuses_unlisted', 1);
SELECT * FROM pg_temp.bonuses(:'hal');

-- Gauges take bonuses like others ---------------------------------------------------------------------

SELECT grant_bonus(:'hal', 'bonuses_seats', 1, NULL, 'C') IS NOT NULL AS granted;
SELECT allowed, remaining, bonus_used, used FROM check_and_consume_quota(:'hal', 'bonuses_seats', 3);

-- A new period has its own count of what bonuses paid; the bonuses go on -------------------------------

SELECT grant_bonus(:'ida', 'bonuses_calls', 6, NULL, 'A') IS NOT NULL AS granted;
SELECT allowed, bonus_used, bonus_remaining FROM check_and_consume_quota(:'ida', 'bonuses_calls', 12);
SET quota.test_clock = '2026-04-10 12:00:00+00';
SELECT allowed, bonus_used, bonus_remaining, reason FROM check_and_consume_quota(:'ida', 'bonuses_calls', 9);
SELECT allowed, bonus_used, bonus_remaining, reason FROM check_and_consume_quota(:'ida', 'bonuses_calls', 2);
SELECT period_start, used, bonus_used FROM usage_history WHERE user_id = :'ida'
UNION ALL SELECT period_start, used, bonus_used FROM usage_tracking WHERE user_id = :'ida' ORDER BY 1;
SELECT * FROM pg_temp.bonuses(:'ida');
SELECT * FROM pg_temp.allocations(:'ida');

-- Never below zero, never above what was given
SELECT count(*) FROM user_bonuses WHERE used_amount < 0 OR used_amount > amount;
SELECT metric, counter LIKE 'bonus %' AS bonus FROM verify_ledger() WHERE metric LIKE 'bonuses%' AND user_id <> :'dan';

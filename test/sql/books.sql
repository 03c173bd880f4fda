-- The books: what verify_ledger finds, fault by fault, in a ledger that has
-- everything in it; and whose accounts are near their limits
\set ann 'md5(''books ann'')::uuid'
\set bob 'md5(''books bob'')::uuid'
\set team 'md5(''books team'')::uuid'
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES ('books_calls', 'counter'), ('books_seats', 'gauge');
INSERT INTO plans (plan) VALUES ('books_plan'), ('books_more'), ('books_team');
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES
	('books_plan', 'books_calls', 'month', 10, 'soft', 2),
	('books_plan', 'books_calls', 'hour', 100, 'hard', NULL),
	('books_plan', 'books_seats', 'lifetime', 10, 'hard', NULL),
	('books_more', 'books_calls', 'month', 40, 'hard', NULL),
	('books_team', 'books_calls', 'month', 1000, 'hard', NULL);
INSERT INTO subscriptions (user_id, plan) VALUES (:team, 'books_team');
INSERT INTO subscriptions (user_id, plan, parent) VALUES (:ann, 'books_plan', :team), (:bob, NULL, :team);

CREATE FUNCTION pg_temp.faults(OUT subject text, OUT metric text, OUT period text, OUT period_start timestamptz, OUT counter text, OUT recorded numeric, OUT expected numeric)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT CASE v.user_id WHEN md5('books ann')::uuid THEN 'ann' WHEN md5('books bob')::uuid THEN 'bob' WHEN md5('books team')::uuid THEN 'team' END,
		substr(v.metric, 7), v.period, v.period_start, regexp_replace(v.counter, ' [-0-9a-f]{36}', ''), trim_scale(v.recorded), trim_scale(v.expected)
	FROM quota.verify_ledger() AS v WHERE v.metric LIKE 'books%' ORDER BY 1, 2, 3, 4, 5
$$;

-- All kinds of events: 13 consumed (10 allowance, 2 bonus, 1 overage), 4 of them
-- refunded (the overage, the bonus and 1 of the allowance); 6 reserved (1 allowance, 2 bonus,
-- 3 overage), 2 of them settled (1 allowance, 1 bonus); 3 reserved and left alone (1 bonus,
-- 2 overage); a gift, a release
SELECT grant_bonus(:ann, 'books_calls', 3, p_giftable => true) AS bonus \gset
SELECT allowed, amount FROM gift_quota(:ann, :bob, 'books_calls', 1);
SELECT event_id AS consume, allowed, bonus_used, overage, cost FROM check_and_consume_quota(:ann, 'books_calls', 13) \gset
\echo :allowed :bonus_used :overage :cost
SELECT allowed, granted, bonus_used, overage, cost FROM refund_quota(:'consume', 4);
SELECT reservation_id AS reserve, allowed, granted, bonus_used, overage, cost FROM reserve_quota(:ann, 'books_calls', 6) \gset
\echo :allowed :granted :bonus_used :overage :cost
SELECT allowed, granted, bonus_used, overage, cost FROM settle_reservation(:'reserve', 2);
SELECT allowed, granted, bonus_used, overage, cost FROM reserve_quota(:ann, 'books_calls', 3);
SELECT allowed FROM check_and_consume_quota(:ann, 'books_seats', 5);
SELECT allowed, granted FROM release_quota(:ann, 'books_seats', 2);
SELECT period, used, bonus_used, overage, cost, held, held_cost FROM usage_tracking WHERE user_id = :ann ORDER BY metric, period;
SELECT amount, used_amount, held_amount, given_amount FROM user_bonuses WHERE user_id = :ann;
-- An hour later the one that was left alone is over, and its unit of the bonus pays
SET quota.test_clock = '2026-03-10 13:00:00+00';
SELECT allowed, bonus_used, overage FROM check_and_consume_quota(:ann, 'books_calls', 1);
SELECT count(*) FROM verify_ledger() AS v WHERE v.metric LIKE 'books%';
SELECT count(*) FROM unnest(ARRAY[:ann, :bob, :team]) AS u, verify_ledger(u);

-- Each counter, open and closed
BEGIN;
UPDATE usage_tracking SET used = used + 1, bonus_used = bonus_used + 2, overage = overage + 3, cost = cost + 4, held = held + 5, held_cost = held_cost + 6
	WHERE user_id = :ann AND metric = 'books_calls' AND period = 'month';
SELECT * FROM pg_temp.faults();
ROLLBACK;
BEGIN;
UPDATE usage_history SET used = used + 1, bonus_used = 2, overage = 3, cost = 4, held = held + 5, held_cost = 6 WHERE user_id = :ann AND period = 'hour';
SELECT * FROM pg_temp.faults();
ROLLBACK;
-- A bonus
BEGIN;
UPDATE user_bonuses SET amount = 20, used_amount = used_amount + 1, held_amount = held_amount + 2, given_amount = given_amount + 3 WHERE id = :'bonus';
SELECT * FROM pg_temp.faults();
ROLLBACK;
-- A gift that was half recorded
BEGIN;
DELETE FROM gift_lines WHERE from_bonus_id = :'bonus';
SELECT * FROM pg_temp.faults();
ROLLBACK;
-- The lines of an event: what it took, and what it set aside
BEGIN;
UPDATE bonus_allocations SET amount = amount + 1 WHERE event_id = :'consume';
SELECT * FROM pg_temp.faults();
ROLLBACK;
BEGIN;
UPDATE bonus_allocations SET held = held + 1 WHERE event_id = :'reserve';
SELECT * FROM pg_temp.faults();
ROLLBACK;
-- A reservation resolved twice, where the counters agree with that
BEGIN;
INSERT INTO usage_events (id, user_id, metric, kind, amount, bonus_used, period, created_at, refers_to, held)
	SELECT gen_random_uuid(), user_id, metric, 'cancel', 0, 0, period, created_at, id, -1 FROM usage_events WHERE id = :'reserve';
UPDATE usage_tracking SET held = held - 1 WHERE user_id = :ann AND metric = 'books_calls' AND period = 'month';
SELECT * FROM pg_temp.faults();
ROLLBACK;
-- One that keeps something
BEGIN;
UPDATE usage_events SET held = held + 1 WHERE refers_to = :'reserve' AND kind = 'settle';
UPDATE usage_tracking SET held = held + 1 WHERE user_id = :ann AND metric = 'books_calls' AND period = 'month';
UPDATE usage_history SET held = held + 1 WHERE user_id = :ann AND metric = 'books_calls' AND period = 'hour';
SELECT * FROM pg_temp.faults();
ROLLBACK;
-- More refunded than there was
BEGIN;
UPDATE usage_events SET amount = amount - 10 WHERE refers_to = :'consume' AND kind = 'refund';
UPDATE usage_tracking SET used = used - 10 WHERE user_id = :ann AND metric = 'books_calls' AND period = 'month';
UPDATE usage_history SET used = used - 10 WHERE user_id = :ann AND metric = 'books_calls' AND period = 'hour';
SELECT * FROM pg_temp.faults();
ROLLBACK;
-- An event that says it belongs to another time
BEGIN;
UPDATE usage_events SET effective_at = '2026-02-10 12:00:00+00' WHERE refers_to = :'consume' AND kind = 'refund';
SELECT * FROM pg_temp.faults();
ROLLBACK;
-- Only one subject's books are looked at
BEGIN;
UPDATE usage_tracking SET used = used + 1 WHERE user_id = :team;
SELECT count(*) FROM verify_ledger(:ann);
SELECT counter, trim_scale(recorded - expected) AS difference FROM verify_ledger(:team);
ROLLBACK;

-- Near the limit: the plan that counts now is the one that was to come ----------------------

SELECT used, limit_amount, percent_used FROM get_users_near_quota_limit(80) WHERE user_id = :ann;
BEGIN;
UPDATE subscriptions SET pending_plan = 'books_more', pending_at = '2026-03-10 13:00:00.000001+00' WHERE user_id = :ann;
SELECT used, limit_amount, percent_used FROM get_users_near_quota_limit(20) WHERE user_id = :ann AND metric = 'books_calls';
SET quota.test_clock = '2026-03-10 13:00:00.000001+00';
SELECT used, limit_amount, percent_used FROM get_users_near_quota_limit(20) WHERE user_id = :ann AND metric = 'books_calls';
ROLLBACK;
-- a member without a plan has no limits, whatever the default plan is
BEGIN;
SET LOCAL quota.default_plan = 'books_plan';
UPDATE subscriptions SET plan = NULL WHERE user_id = :ann;
SELECT count(*) FROM get_users_near_quota_limit(20) WHERE user_id = :ann;
DELETE FROM subscriptions WHERE user_id = :ann;
SELECT used, limit_amount, percent_used FROM get_users_near_quota_limit(20) WHERE user_id = :ann;
ROLLBACK;
-- what is used of a rate is of no period
BEGIN;
UPDATE plan_limits SET algorithm = 'sliding', mode = 'hard', overage_price = NULL WHERE plan = 'books_plan' AND period = 'month';
SELECT count(*) FROM get_users_near_quota_limit(20) WHERE user_id = :ann AND metric = 'books_calls';
ROLLBACK;

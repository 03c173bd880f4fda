-- Admins correct what was counted: reset_user_quota and adjust_usage.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES ('usage_calls', 'counter'), ('usage_total', 'counter'), ('usage_seats', 'gauge'),
	('usage_flag', 'feature'), ('usage_unlisted', 'counter'), ('usage_soft', 'counter');
INSERT INTO metric_aliases VALUES ('usage_requests', 'usage_calls');
INSERT INTO plans (plan) VALUES ('usage_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES
	('usage_plan', 'usage_calls', 'month', 100, 'hard', NULL), ('usage_plan', 'usage_calls', 'day', 50, 'hard', NULL),
	('usage_plan', 'usage_total', 'lifetime', 20, 'hard', NULL), ('usage_plan', 'usage_seats', 'lifetime', 5, 'hard', NULL),
	('usage_plan', 'usage_flag', 'lifetime', NULL, 'hard', NULL), ('usage_plan', 'usage_soft', 'month', 10, 'soft', 2);
SELECT md5('usage ann')::uuid AS ann, md5('usage ben')::uuid AS ben, md5('usage cat')::uuid AS cat, md5('usage dan')::uuid AS dan \gset
SELECT assign_plan(u, 'usage_plan') FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan']::uuid[]) AS u;

CREATE FUNCTION pg_temp.accounts(p_user_id uuid, OUT metric text, OUT period text, OUT period_start timestamptz, OUT period_end timestamptz, OUT used numeric, OUT bonus_used numeric, OUT overage numeric, OUT closed boolean)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT t.metric, t.period, t.period_start, t.period_end, trim_scale(t.used), trim_scale(t.bonus_used), trim_scale(t.overage), false
		FROM quota.usage_tracking t WHERE t.user_id = p_user_id
	UNION ALL SELECT h.metric, h.period, h.period_start, h.period_end, trim_scale(h.used), trim_scale(h.bonus_used), trim_scale(h.overage), true
		FROM quota.usage_history h WHERE h.user_id = p_user_id
	ORDER BY 1, 2, 3
$$;
CREATE FUNCTION pg_temp.acts(p_user_id uuid, OUT action text, OUT metric text, OUT period text, OUT amount numeric, OUT reason text, OUT detail jsonb, OUT names_event boolean, OUT by_me boolean)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT a.action, a.metric, a.period, a.attempted_amount, a.reason, a.detail - 'event_id',
			EXISTS (SELECT FROM quota.usage_events e WHERE e.id = (a.detail ->> 'event_id')::uuid AND e.kind = 'adjust' AND e.amount = a.attempted_amount),
			a.actor = session_user AND a.success
		FROM quota.quota_audit_log a
		WHERE a.user_id = p_user_id AND a.action IN ('reset_user_quota', 'adjust_usage') ORDER BY a.reason, a.metric
$$;

-- Reset: one metric, by its alias -----------------------------------------------------------

-- 45, 50 and 5 of the allowance, and 5 of a bonus
SELECT allowed FROM check_and_consume_quota(:'ann', 'usage_calls', 45);
SET quota.test_clock = '2026-03-11 12:00:00+00';
SELECT allowed FROM check_and_consume_quota(:'ann', 'usage_calls', 50);
SET quota.test_clock = '2026-03-12 12:00:00+00';
SELECT grant_bonus(:'ann', 'usage_calls', 8) IS NOT NULL AS granted;
SELECT used, bonus_used, remaining FROM check_and_consume_quota(:'ann', 'usage_calls', 10);
SELECT metric, allowed FROM consume_quotas(:'ann', '{"usage_total": 3, "usage_seats": 2}');
SELECT * FROM reset_user_quota(:'ann', 'usage_requests', 'our fault');
-- the periods end as before; what bonuses paid is gone from the count and not from the bonus
SELECT * FROM pg_temp.accounts(:'ann');
SELECT allowed, remaining, limit_amount, used, bonus_remaining, resets_at FROM check_quota(:'ann', 'usage_calls', 103);
SELECT metric, period, used, remaining FROM get_user_quota_status(:'ann') WHERE metric = 'usage_calls';
SELECT * FROM pg_temp.acts(:'ann');
SELECT * FROM verify_ledger(:'ann');
-- it counts on from there, and can be reset again
SELECT used, remaining FROM check_and_consume_quota(:'ann', 'usage_calls', 50);
SELECT * FROM verify_ledger(:'ann');

-- Reset: all counters, not the gauge; overage is counted as well -------------------------------

SET quota.test_clock = '2026-03-20 12:00:00+00';
SELECT reason, overage, cost FROM check_and_consume_quota(:'ann', 'usage_soft', 12.5);
SELECT * FROM reset_user_quota(:'ann', p_reason => 'a new start');
SELECT metric, period, used FROM get_user_quota_status(:'ann');
SELECT * FROM pg_temp.acts(:'ann') WHERE reason = 'a new start';
SELECT * FROM verify_ledger(:'ann');
-- what was not used is reset, too, and a subject that has used nothing has no counter to reset
SELECT * FROM reset_user_quota(:'ben', 'usage_calls', 'for nothing');
SELECT count(*) FROM reset_user_quota(:'cat', NULL, 'for nothing');
SELECT * FROM pg_temp.acts(:'ben');

-- Adjust -----------------------------------------------------------------------------------------

SELECT allowed FROM check_and_consume_quota(:'dan', 'usage_calls', 30);
SELECT allowed, granted, used, remaining, reason, metric, period, already_processed, event_id IS NOT NULL AS has_event
	FROM adjust_usage(:'dan', 'usage_requests', -10.5, 'counted twice');
-- beyond the limit: nothing remains, and nothing is denied to an admin; the day's window is not touched
SELECT allowed, granted, used, remaining FROM adjust_usage(:'dan', 'usage_calls', 100, 'a late report');
SELECT * FROM pg_temp.accounts(:'dan');
SELECT allowed, reason FROM check_and_consume_quota(:'dan', 'usage_calls', 1);
-- to nothing, and not below
SELECT adjust_usage(:'dan', 'usage_calls', -119.500001, 'too much');
SELECT allowed, used, remaining FROM adjust_usage(:'dan', 'usage_calls', -119.5, 'all of it');
SELECT adjust_usage(:'dan', 'usage_calls', -0.000001, 'too much');
-- gauges, too
SELECT allowed, used, remaining FROM adjust_usage(:'dan', 'usage_seats', 3, 'found them');
SELECT * FROM pg_temp.acts(:'dan');
SELECT kind, metric, trim_scale(amount) AS amount, period FROM usage_events WHERE user_id = :'dan' ORDER BY metric, amount;
SELECT * FROM verify_ledger(:'dan');

-- Bad input, which changes nothing ------------------------------------------------------------------

CREATE TEMP VIEW written AS
	SELECT 'accounts' AS what, t::text AS stored FROM usage_tracking t UNION ALL SELECT 'history', t::text FROM usage_history t
	UNION ALL SELECT 'events', t::text FROM usage_events t UNION ALL SELECT 'log', t::text FROM quota_audit_log t;
CREATE TEMP TABLE before AS TABLE written;
\t on
\a
SELECT reset_user_quota(NULL, 'usage_calls', 'x');
SELECT reset_user_quota(:'ann', 'usage_calls');
SELECT reset_user_quota(:'ann', 'usage_calls', NULL);
SELECT reset_user_quota(:'ann', 'usage_calls', '');
SELECT reset_user_quota(:'ann', 'usage_calls', E' \t\n');
SELECT reset_user_quota(:'ann');
SELECT reset_user_quota(:'ann', '', 'x');
SELECT reset_user_quota(:'ann', 'usage_cals', 'x');
SELECT reset_user_quota(:'ann', 'usage_seats', 'x');
SELECT reset_user_quota(:'ann', 'usage_flag', 'x');
SELECT adjust_usage(NULL, 'usage_calls', 1, 'x');
SELECT adjust_usage(:'ann', NULL, 1, 'x');
SELECT adjust_usage(:'ann', '', 1, 'x');
SELECT adjust_usage(:'ann', 'usage_cals', 1, 'x');
SELECT adjust_usage(:'ann', 'usage_unlisted', 1, 'x');
SELECT adjust_usage(:'ann', 'usage_calls', NULL, 'x');
SELECT adjust_usage(:'ann', 'usage_calls', 0, 'x');
SELECT adjust_usage(:'ann', 'usage_calls', 'NaN', 'x');
SELECT adjust_usage(:'ann', 'usage_calls', 'Infinity', 'x');
SELECT adjust_usage(:'ann', 'usage_calls', '-Infinity', 'x');
SELECT adjust_usage(:'ann', 'usage_calls', 0.0000001, 'x');
SELECT adjust_usage(:'ann', 'usage_calls', -0.0000001, 'x');
SELECT adjust_usage(:'ann', 'usage_calls', 1e18, 'x');
SELECT adjust_usage(:'ann', 'usage_calls', -1e18, 'x');
SELECT adjust_usage(:'ann', 'usage_calls', 1, NULL);
SELECT adjust_usage(:'ann', 'usage_calls', 1, '');
SELECT adjust_usage(:'ann', 'usage_calls', 1, '  ');
BEGIN READ ONLY;
SELECT adjust_usage(:'ann', 'usage_calls', 1, 'x');
ROLLBACK;
BEGIN READ ONLY;
SELECT reset_user_quota(:'ann', 'usage_calls', 'x');
ROLLBACK;
\a
\t off
SELECT count(*) FROM ((TABLE written EXCEPT ALL TABLE before) UNION ALL (TABLE before EXCEPT ALL TABLE written)) AS d;

-- In all isolation levels, and undone with the transaction
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT * FROM reset_user_quota(:'dan', 'usage_seats', 'x');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT used FROM adjust_usage(:'dan', 'usage_calls', 5, 'x');
SELECT * FROM reset_user_quota(:'dan', NULL, 'x');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT used FROM adjust_usage(:'dan', 'usage_calls', 5, 'x');
SELECT * FROM reset_user_quota(:'dan', 'usage_calls', 'x');
ROLLBACK;
SELECT used FROM check_quota(:'dan', 'usage_calls');

-- Sliding and gcra windows through the calls for several at once, levels, soft limits, status, replays.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('rate_calls_even', 'counter'), ('rate_calls_sliding', 'counter'), ('rate_calls_soft', 'counter');
INSERT INTO plans (plan) VALUES ('rate_calls_team'), ('rate_calls_member');
INSERT INTO plan_limits (plan, metric, period, limit_amount, algorithm, burst, mode) VALUES
	('rate_calls_team', 'rate_calls_even', 'minute', 10, 'sliding', NULL, 'hard'),
	('rate_calls_member', 'rate_calls_even', 'minute', 60, 'gcra', 5, 'hard'),
	('rate_calls_member', 'rate_calls_sliding', 'minute', 10, 'sliding', NULL, 'hard'),
	('rate_calls_member', 'rate_calls_soft', 'minute', 4, 'sliding', NULL, 'soft');
SELECT md5('rate_calls ann')::uuid AS ann, md5('rate_calls ben')::uuid AS ben,
	md5('rate_calls cat')::uuid AS cat, md5('rate_calls team')::uuid AS team \gset
INSERT INTO subscriptions (user_id, plan, parent) VALUES
	(:'team', 'rate_calls_team', NULL), (:'ann', 'rate_calls_member', :'team'),
	(:'ben', 'rate_calls_member', :'team'), (:'cat', 'rate_calls_member', NULL);

-- Several at once -------------------------------------------------------------------

-- twelve times 1 of 10
SELECT allowed, count(*), trim_scale(min(remaining)) AS least, max(retry_after) AS retry_after
	FROM consume_quota_batch(array_fill(:'cat'::uuid, ARRAY[12]), array_fill('rate_calls_sliding'::text, ARRAY[12]))
	GROUP BY allowed ORDER BY allowed;
-- as much as fits
SELECT allowed, trim_scale(granted) AS granted, trim_scale(remaining) AS remaining FROM consume_up_to(:'cat', 'rate_calls_sliding', 3);
SELECT allowed, trim_scale(granted) AS granted, trim_scale(remaining) AS remaining FROM consume_up_to(:'cat', 'rate_calls_even', 9);
SET quota.test_clock = '2026-03-10 12:00:01.5+00';
SELECT allowed, trim_scale(granted) AS granted, trim_scale(remaining) AS remaining FROM consume_up_to(:'cat', 'rate_calls_even', 9);
-- of several metrics all or none
SELECT metric, allowed, reason, trim_scale(remaining) AS remaining, retry_after
	FROM consume_quotas(:'cat', '{"rate_calls_even": 1, "rate_calls_sliding": 1}');
SET quota.test_clock = '2026-03-10 12:01:00.999998+00';
SELECT metric, allowed, reason, trim_scale(remaining) AS remaining, retry_after
	FROM consume_quotas(:'cat', '{"rate_calls_even": 5, "rate_calls_sliding": 10}');
SET quota.test_clock = '2026-03-10 12:01:00.999999+00';
SELECT metric, allowed, reason, trim_scale(remaining) AS remaining, retry_after
	FROM consume_quotas(:'cat', '{"rate_calls_even": 5, "rate_calls_sliding": 10}');

-- Levels: each five at once, together ten a minute --------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT allowed, trim_scale(remaining) AS remaining, binding_user_id = :'ann' AS own, retry_after
	FROM check_and_consume_quota(:'ann', 'rate_calls_even', 5);
SELECT allowed, trim_scale(remaining) AS remaining, binding_user_id = :'ben' AS own, retry_after
	FROM check_and_consume_quota(:'ben', 'rate_calls_even', 4);
-- a second for the bucket, a minute and the rest of the second for the team
SELECT allowed, trim_scale(remaining) AS remaining, binding_user_id = :'ben' AS own, retry_after
	FROM check_and_consume_quota(:'ben', 'rate_calls_even', 2);

-- Soft: what does not fit is overage and not in the window --------------------------------

SELECT allowed, reason, trim_scale(remaining) AS remaining, trim_scale(used) AS used, trim_scale(overage) AS overage, resets_at
	FROM check_and_consume_quota(:'ann', 'rate_calls_soft', 6);
SET quota.test_clock = '2026-03-10 12:00:59+00';
SELECT allowed, reason, trim_scale(remaining) AS remaining, trim_scale(used) AS used, trim_scale(overage) AS overage, resets_at
	FROM check_and_consume_quota(:'ann', 'rate_calls_soft', 1);
SET quota.test_clock = '2026-03-10 12:01:00.999999+00';
SELECT allowed, reason, trim_scale(remaining) AS remaining, trim_scale(used) AS used, trim_scale(overage) AS overage, resets_at
	FROM check_and_consume_quota(:'ann', 'rate_calls_soft', 4);

-- Status ----------------------------------------------------------------------------------

-- own limits: gcra counts against the burst
SET quota.test_clock = '2026-03-10 12:01:03.5+00';
SELECT metric, trim_scale(limit_amount) AS limit_amount, trim_scale(used) AS used, trim_scale(remaining) AS remaining,
		percent_used, severity, resets_at
	FROM get_user_quota_status(:'cat') ORDER BY metric;

-- The same key ----------------------------------------------------------------------------

SET quota.test_clock = '2026-03-10 12:05:00+00';
SELECT allowed, already_processed, trim_scale(remaining) AS remaining
	FROM check_and_consume_quota(:'cat', 'rate_calls_sliding', 10, 'key');
SELECT allowed, already_processed, trim_scale(remaining) AS remaining
	FROM check_and_consume_quota(:'cat', 'rate_calls_sliding', 10, 'key');
-- a denial is decided again
SELECT allowed, already_processed, retry_after FROM check_and_consume_quota(:'cat', 'rate_calls_sliding', 1, 'other');
SET quota.test_clock = '2026-03-10 12:06:00.999999+00';
SELECT allowed, already_processed, retry_after FROM check_and_consume_quota(:'cat', 'rate_calls_sliding', 1, 'other');

SELECT metric, counter FROM verify_ledger() WHERE metric LIKE 'rate\_calls%';

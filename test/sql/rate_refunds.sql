-- What comes back to windows that do not start again at once: refunds, reservations.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';

INSERT INTO metrics (metric, kind) VALUES ('rate_refunds_even', 'counter'), ('rate_refunds_sliding', 'counter');
INSERT INTO plans (plan) VALUES ('rate_refunds_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount, algorithm, burst) VALUES
	('rate_refunds_plan', 'rate_refunds_even', 'minute', 60, 'gcra', 5),
	('rate_refunds_plan', 'rate_refunds_sliding', 'minute', 10, 'sliding', NULL);
SELECT md5('rate_refunds ann')::uuid AS ann, md5('rate_refunds ben')::uuid AS ben,
	md5('rate_refunds cat')::uuid AS cat \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'rate_refunds_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat']::uuid[]) AS u;

CREATE FUNCTION pg_temp.ask(p_user_id uuid, p_metric text, p_amount numeric,
	OUT allowed boolean, OUT remaining numeric, OUT used numeric, OUT retry_after interval, OUT resets_at timestamptz)
	LANGUAGE sql AS $$
	SELECT o.allowed, trim_scale(o.remaining), trim_scale(o.used), o.retry_after, o.resets_at
		FROM check_quota(p_user_id, p_metric, p_amount) AS o
$$;

-- Refunds ---------------------------------------------------------------------------

-- sliding: out of the second in which they were used
SET quota.test_clock = '2026-03-10 12:00:10+00';
SELECT event_id AS first FROM check_and_consume_quota(:'ann', 'rate_refunds_sliding', 6) \gset
SET quota.test_clock = '2026-03-10 12:00:20+00';
SELECT allowed, trim_scale(remaining) AS remaining FROM check_and_consume_quota(:'ann', 'rate_refunds_sliding', 4);
SET quota.test_clock = '2026-03-10 12:00:30+00';
SELECT allowed, trim_scale(granted) AS granted FROM refund_quota(:'first', 2);
SELECT * FROM pg_temp.ask(:'ann', 'rate_refunds_sliding', 3);
-- which is out of the window by now: nothing changes
SET quota.test_clock = '2026-03-10 12:01:11+00';
SELECT allowed, trim_scale(granted) AS granted FROM refund_quota(:'first');
SELECT * FROM pg_temp.ask(:'ann', 'rate_refunds_sliding', 7);

-- gcra: at once all of it, later what has not drained meanwhile
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT event_id AS first FROM check_and_consume_quota(:'ann', 'rate_refunds_even', 5) \gset
SELECT allowed, trim_scale(granted) AS granted FROM refund_quota(:'first');
SELECT * FROM pg_temp.ask(:'ann', 'rate_refunds_even', 5);
SELECT event_id AS second FROM check_and_consume_quota(:'ann', 'rate_refunds_even', 4) \gset
SET quota.test_clock = '2026-03-10 12:00:02+00';
SELECT allowed, trim_scale(remaining) AS remaining FROM check_and_consume_quota(:'ann', 'rate_refunds_even', 3);
SELECT allowed, trim_scale(granted) AS granted FROM refund_quota(:'second');
SELECT * FROM pg_temp.ask(:'ann', 'rate_refunds_even', 5);

-- what a bonus paid for was never in the bucket: of 5 in there 2 have drained, 3 come back
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT grant_bonus(:'cat', 'rate_refunds_even', 3, NULL, 'A') IS NOT NULL AS granted;
SELECT event_id AS first FROM check_and_consume_quota(:'cat', 'rate_refunds_even', 8) \gset
SET quota.test_clock = '2026-03-10 12:00:02+00';
SELECT allowed, trim_scale(remaining) AS remaining FROM check_and_consume_quota(:'cat', 'rate_refunds_even', 2);
SELECT allowed, trim_scale(granted) AS granted FROM refund_quota(:'first');
SELECT * FROM pg_temp.ask(:'cat', 'rate_refunds_even', 6.000001);

-- Reservations ------------------------------------------------------------------------

-- settled, the units count as of when they were reserved
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT reservation_id AS hold FROM reserve_quota(:'ben', 'rate_refunds_sliding', 6, '30 seconds') \gset
SELECT allowed, remaining, retry_after FROM pg_temp.ask(:'ben', 'rate_refunds_sliding', 5);
SELECT allowed, remaining, retry_after FROM pg_temp.ask(:'ben', 'rate_refunds_sliding', 11);
SET quota.test_clock = '2026-03-10 12:00:10+00';
SELECT allowed FROM settle_reservation(:'hold');
SELECT * FROM pg_temp.ask(:'ben', 'rate_refunds_sliding', 5);
-- settled below
SET quota.test_clock = '2026-03-10 12:05:00+00';
SELECT reservation_id AS hold FROM reserve_quota(:'ben', 'rate_refunds_sliding', 6, '30 seconds') \gset
SELECT allowed FROM settle_reservation(:'hold', 2);
SELECT * FROM pg_temp.ask(:'ben', 'rate_refunds_sliding', 8);
-- cancelled
SET quota.test_clock = '2026-03-10 12:10:00+00';
SELECT reservation_id AS hold FROM reserve_quota(:'ben', 'rate_refunds_sliding', 6, '30 seconds') \gset
SELECT allowed FROM cancel_reservation(:'hold');
SELECT * FROM pg_temp.ask(:'ben', 'rate_refunds_sliding', 10);
-- expired
SET quota.test_clock = '2026-03-10 12:15:00+00';
SELECT allowed FROM reserve_quota(:'ben', 'rate_refunds_sliding', 6, '30 seconds');
SET quota.test_clock = '2026-03-10 12:15:29.999999+00';
SELECT allowed, remaining, retry_after FROM pg_temp.ask(:'ben', 'rate_refunds_sliding', 10);
SET quota.test_clock = '2026-03-10 12:15:30+00';
SELECT * FROM pg_temp.ask(:'ben', 'rate_refunds_sliding', 10);

-- gcra: a hold takes its part of the burst; cancelled at once, all is back
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT reservation_id AS hold FROM reserve_quota(:'ben', 'rate_refunds_even', 4, '30 seconds') \gset
SELECT allowed, remaining FROM pg_temp.ask(:'ben', 'rate_refunds_even', 2);
SELECT allowed FROM cancel_reservation(:'hold');
SELECT * FROM pg_temp.ask(:'ben', 'rate_refunds_even', 5);
SELECT reservation_id AS hold FROM reserve_quota(:'ben', 'rate_refunds_even', 4, '30 seconds') \gset
SELECT allowed FROM settle_reservation(:'hold');
SELECT * FROM pg_temp.ask(:'ben', 'rate_refunds_even', 2);

SELECT metric, counter FROM verify_ledger() WHERE metric LIKE 'rate\_refunds%';

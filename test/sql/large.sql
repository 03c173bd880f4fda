-- ---------------------------------------------------------------------------
-- The largest amounts and prices: what is granted can be read again
-- ---------------------------------------------------------------------------

\set VERBOSITY sqlstate
SELECT md5('large ann')::uuid AS ann, md5('large ben')::uuid AS ben, md5('large cat')::uuid AS cat \gset
INSERT INTO metrics (metric) VALUES ('large_soft'), ('large_dear'), ('large_hard');
INSERT INTO plans (plan) VALUES ('large_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES
	('large_plan', 'large_soft', 'month', 0, 'soft', 2.5),
	('large_plan', 'large_dear', 'month', 0, 'soft', 999999999999.999999999999),
	('large_plan', 'large_hard', 'month', NULL, 'hard', NULL);
INSERT INTO subscriptions (user_id, plan) SELECT u, 'large_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat']::uuid[]) AS u;

-- 10^18 units less a millionth, at 2.50 each
SELECT allowed, reason, overage, cost FROM check_and_consume_quota(:'ann', 'large_soft', 999999999999999999.999999);
SELECT allowed, reason, cost FROM check_and_consume_quota(:'ann', 'large_soft', 1);
SELECT overage, cost FROM get_user_quota_status(:'ann') WHERE metric = 'large_soft';
-- twenty times as much would cost 5 x 10^19: that is not reckoned with any more, nor is anything broken by it
SELECT count(*) FROM generate_series(1, 18) AS i, check_and_consume_quota(:'ann', 'large_soft', 999999999999999999.999999, NULL, jsonb_build_object('i', i)) AS o WHERE o.allowed;
SELECT check_and_consume_quota(:'ann', 'large_soft', 999999999999999999.999999);
SELECT allowed, cost FROM check_and_consume_quota(:'ann', 'large_soft', 1);
SELECT allowed, granted FROM refund_quota((SELECT id FROM usage_events WHERE user_id = :'ann' ORDER BY id LIMIT 1));
SELECT overage, cost FROM get_user_quota_status(:'ann') WHERE metric = 'large_soft';

-- the highest price: 50 million units, then no more
SELECT allowed, cost FROM check_and_consume_quota(:'ben', 'large_dear', 49999999);
SELECT check_and_consume_quota(:'ben', 'large_dear', 2);
SELECT check_and_consume_quota(:'ben', 'large_dear', 999999999999999999);
SELECT allowed, cost FROM check_quota(:'ben', 'large_dear', 0.5);
SELECT reservation_id AS held FROM reserve_quota(:'ben', 'large_dear', 0.25) \gset
SELECT allowed, granted, shortfall FROM settle_reservation(:'held', 5);

-- many of the largest amounts add up
SELECT count(*) FROM generate_series(1, 50) AS i, check_and_consume_quota(:'cat', 'large_hard', 999999999999999999.999999, NULL, jsonb_build_object('i', i)) AS o WHERE o.allowed;
SELECT used FROM get_user_quota_status(:'cat') WHERE metric = 'large_hard';
SELECT v.counter, v.recorded, v.expected FROM unnest(ARRAY[:'ann', :'ben', :'cat']::uuid[]) AS u, verify_ledger(u) AS v;

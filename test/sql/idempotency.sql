-- Idempotency keys: one charge, and the same answer for every repetition.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('idempotency_calls', 'counter'), ('idempotency_other', 'counter'), ('idempotency_free', 'counter'),
	('idempotency_unlisted', 'counter'),
	-- pairs that are the same text when metric and key are strung together
	('idempotency_a:b', 'counter'), ('idempotency_a', 'counter');
INSERT INTO metric_aliases VALUES ('idempotency_requests', 'idempotency_calls');
INSERT INTO plans (plan) VALUES ('idempotency_plan'), ('idempotency_small');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('idempotency_plan', 'idempotency_calls', 'month', 10),
	('idempotency_plan', 'idempotency_calls', 'minute', 8),
	('idempotency_plan', 'idempotency_other', 'month', 10),
	('idempotency_plan', 'idempotency_free', 'lifetime', NULL),
	('idempotency_plan', 'idempotency_a:b', 'month', 10),
	('idempotency_plan', 'idempotency_a', 'month', 10),
	('idempotency_small', 'idempotency_calls', 'month', 1);
SELECT md5('idempotency ann')::uuid AS ann, md5('idempotency ben')::uuid AS ben, md5('idempotency cat')::uuid AS cat,
	md5('idempotency dan')::uuid AS dan, md5('idempotency eve')::uuid AS eve, md5('idempotency fay')::uuid AS fay,
	md5('idempotency gus')::uuid AS gus \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'idempotency_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus']::uuid[]) AS u;

-- a subject's counters, ledger and log in one line each
CREATE FUNCTION pg_temp.moved(p_user_id uuid, OUT metric text, OUT used numeric, OUT bonus_used numeric, OUT events bigint, OUT amount numeric)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT e.metric, t.used, t.bonus_used, count(*), sum(e.amount)
		FROM quota.usage_events e JOIN quota.usage_tracking t USING (user_id, metric, period)
		WHERE e.user_id = p_user_id GROUP BY 1, 2, 3 ORDER BY 1
$$;

-- A replay answers the same in every column ----------------------------------------

CREATE TEMP TABLE answers (nr serial, o outcome);
SELECT grant_bonus(:'ann', 'idempotency_calls', 2) IS NOT NULL AS granted;
INSERT INTO answers (o) SELECT check_and_consume_quota(:'ann', 'idempotency_calls', 3, 'first', '{"a": 1}');
SELECT (o).allowed, (o).remaining, (o).limit_amount, (o).bonus_used, (o).already_processed, (o).reason, (o).metric, (o).period,
	(o).used, (o).bonus_remaining, (o).overage, (o).cost, (o).period_start, (o).resets_at, (o).retry_after FROM answers \gx
-- other calls move the state on before the key comes again
SELECT allowed, remaining, used FROM check_and_consume_quota(:'ann', 'idempotency_calls', 5);
INSERT INTO answers (o) SELECT check_and_consume_quota(:'ann', 'idempotency_calls', 3, 'first');
INSERT INTO answers (o) SELECT check_and_consume_quota(:'ann', 'idempotency_calls', 3.000000, 'first', '{"other": "metadata"}');
INSERT INTO answers (o) SELECT check_and_consume_quota(:'ann', 'idempotency_requests', 3, 'first');
SELECT a.nr, (a.o).already_processed,
	to_jsonb(a.o) - 'already_processed' = to_jsonb(f.o) - 'already_processed' AS same
	FROM answers a, answers f WHERE f.nr = 1 ORDER BY a.nr;
SELECT * FROM pg_temp.moved(:'ann');
SELECT metadata, (outcome).already_processed, (outcome).event_id = id AS names_itself, octet_length(key_hash)
	FROM usage_events WHERE user_id = :'ann' AND key_hash IS NOT NULL;
SELECT action, success, reason, attempted_amount, plan_limit, current_usage, remaining, period,
	event_id = (SELECT id FROM usage_events WHERE user_id = :'ann' AND key_hash IS NOT NULL) AS first_event, count(*)
	FROM quota_audit_log WHERE user_id = :'ann' AND action = 'consume'
	GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY reason, attempted_amount;

-- an answer that a bonus paid for, and one from an unlimited account
TRUNCATE answers RESTART IDENTITY;
SET quota.test_clock = '2026-03-10 12:05:00+00';
INSERT INTO answers (o) SELECT check_and_consume_quota(:'ann', 'idempotency_calls', 3, 'with bonus');
INSERT INTO answers (o) SELECT check_and_consume_quota(:'ann', 'idempotency_calls', 3, 'with bonus');
INSERT INTO answers (o) SELECT check_and_consume_quota(:'ann', 'idempotency_free', 7, 'unlimited');
INSERT INTO answers (o) SELECT check_and_consume_quota(:'ann', 'idempotency_free', 7, 'unlimited');
SELECT nr, (o).allowed, (o).already_processed, (o).reason, (o).bonus_used, (o).remaining, (o).limit_amount, (o).used,
	(o).bonus_remaining, (o).period, (o).resets_at FROM answers ORDER BY nr;
SELECT count(DISTINCT to_jsonb(o) - 'already_processed') FROM answers;
SELECT * FROM pg_temp.moved(:'ann');

-- Another amount under the same key: a conflict, and nothing moves --------------------

SELECT allowed, used FROM check_and_consume_quota(:'ben', 'idempotency_other', 3, 'k');
SELECT allowed, remaining, limit_amount, bonus_used, already_processed, reason, metric, period, used, bonus_remaining,
	overage, cost, period_start, resets_at, retry_after, event_id
	FROM check_and_consume_quota(:'ben', 'idempotency_other', 4, 'k') \gx
-- also an amount that would be denied, or paid by a bonus
SELECT allowed, reason, remaining, used, retry_after FROM check_and_consume_quota(:'ben', 'idempotency_other', 400, 'k');
SELECT grant_bonus(:'ben', 'idempotency_other', 5) IS NOT NULL AS granted;
SELECT allowed, reason, remaining, used, bonus_used, bonus_remaining FROM check_and_consume_quota(:'ben', 'idempotency_other', 12, 'k');
SELECT allowed, reason, remaining, used FROM check_and_consume_quota(:'ben', 'idempotency_other', 3.000001, 'k');
-- the first amount still replays
SELECT allowed, already_processed, reason, remaining, used FROM check_and_consume_quota(:'ben', 'idempotency_other', 3, 'k');
SELECT * FROM pg_temp.moved(:'ben');
SELECT attempted_amount, success, reason, plan_limit, current_usage, remaining, event_id IS NOT NULL AS has_event
	FROM quota_audit_log WHERE user_id = :'ben' AND action = 'consume' ORDER BY attempted_amount, reason;

-- A key belongs to its subject and metric ----------------------------------------------

SELECT allowed, already_processed, used FROM check_and_consume_quota(:'cat', 'idempotency_other', 2, 'k');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'cat', 'idempotency_calls', 2, 'k');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'dan', 'idempotency_other', 2, 'k');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'cat', 'idempotency_other', 2, 'k');
-- where metric ends and key begins is part of the hash
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'cat', 'idempotency_a:b', 1, 'c');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'cat', 'idempotency_a', 1, 'b:c');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'cat', 'idempotency_a', 1, ':bc');
SELECT * FROM pg_temp.moved(:'cat');
SELECT * FROM pg_temp.moved(:'dan');
-- and the hash is what it is said to be
SELECT e.metric, e.key_hash = sha256(uuid_send(e.user_id)
		|| int4send(octet_length(e.metric)) || convert_to(e.metric, 'UTF8')
		|| int4send(octet_length(k)) || convert_to(k, 'UTF8')) AS as_documented
	FROM usage_events e, LATERAL (SELECT CASE e.metric WHEN 'idempotency_a:b' THEN 'c' ELSE 'k' END) AS t (k)
	WHERE e.user_id = :'cat' AND e.metric <> 'idempotency_a' ORDER BY e.metric;

-- Bytes count: what looks the same is not the same -----------------------------------------

SELECT allowed, already_processed, used FROM check_and_consume_quota(:'eve', 'idempotency_other', 1, 'key');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'eve', 'idempotency_other', 1, U&'ke\200By');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'eve', 'idempotency_other', 1, 'key ');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'eve', 'idempotency_other', 1, 'KEY');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'eve', 'idempotency_other', 1, U&'\00E9');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'eve', 'idempotency_other', 1, U&'e\0301');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'eve', 'idempotency_other', 1, U&'ke\200By');
-- keys of any length
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'eve', 'idempotency_other', 1, repeat('x', 10240));
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'eve', 'idempotency_other', 1, repeat('x', 10240));
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'eve', 'idempotency_other', 1, repeat('x', 10239) || 'y');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'eve', 'idempotency_other', 1, ' ');
-- keys are not stored
SELECT count(*) FROM usage_events e WHERE user_id = :'eve' AND e::text LIKE '%xxxx%';
SELECT count(*) FROM quota_audit_log e WHERE user_id = :'eve' AND e::text LIKE '%xxxx%';
SELECT * FROM pg_temp.moved(:'eve');

-- A denial is not kept: the key is decided again --------------------------------------------

SELECT allowed, already_processed, reason FROM check_and_consume_quota(:'fay', 'idempotency_other', 12, 'k');
SELECT allowed, already_processed, reason FROM check_and_consume_quota(:'fay', 'idempotency_other', 12, 'k');
-- an amount denied does not bind the key either
SELECT allowed, already_processed, reason FROM check_and_consume_quota(:'fay', 'idempotency_other', 13, 'k');
SELECT grant_bonus(:'fay', 'idempotency_other', 2) IS NOT NULL AS granted;
SELECT allowed, already_processed, reason, bonus_used FROM check_and_consume_quota(:'fay', 'idempotency_other', 12, 'k');
SELECT allowed, already_processed, reason, bonus_used FROM check_and_consume_quota(:'fay', 'idempotency_other', 12, 'k');
SELECT allowed, already_processed, reason, bonus_used FROM check_and_consume_quota(:'fay', 'idempotency_other', 12, 'k2');
SELECT * FROM pg_temp.moved(:'fay');
SELECT success, reason, attempted_amount, count(*) FROM quota_audit_log WHERE user_id = :'fay' AND action = 'consume'
	GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- A replay is the first answer, whatever has happened since -----------------------------------

SELECT allowed, remaining, used, resets_at FROM check_and_consume_quota(:'gus', 'idempotency_other', 4, 'march');
-- the period is over
SET quota.test_clock = '2026-04-10 12:00:00+00';
SELECT allowed, already_processed, remaining, used, period_start, resets_at FROM check_and_consume_quota(:'gus', 'idempotency_other', 4, 'march');
-- (which did not close it)
SELECT period_start, used FROM usage_tracking WHERE user_id = :'gus';
SELECT allowed, used FROM check_and_consume_quota(:'gus', 'idempotency_other', 9, 'april');
SELECT allowed, already_processed, remaining, used, period_start FROM check_and_consume_quota(:'gus', 'idempotency_other', 4, 'march');
SELECT allowed, reason, remaining, used, period_start FROM check_and_consume_quota(:'gus', 'idempotency_other', 5, 'march');
-- the plan no longer has the metric; without a subscription there is no plan at all
UPDATE subscriptions SET plan = 'idempotency_small' WHERE user_id = :'gus';
SELECT allowed, already_processed, remaining, used FROM check_and_consume_quota(:'gus', 'idempotency_other', 4, 'march');
SELECT allowed, reason, remaining, limit_amount, used, period FROM check_and_consume_quota(:'gus', 'idempotency_other', 5, 'march');
DELETE FROM subscriptions WHERE user_id = :'gus';
SELECT allowed, already_processed, remaining, used FROM check_and_consume_quota(:'gus', 'idempotency_other', 4, 'march');
SELECT created_at, attempted_amount, success, reason FROM quota_audit_log WHERE user_id = :'gus' ORDER BY 1, 2, 4;
SELECT period_start, used FROM usage_tracking WHERE user_id = :'gus';
INSERT INTO subscriptions (user_id, plan) VALUES (:'gus', 'idempotency_plan');

-- What is rolled back did not happen ------------------------------------------------------------

BEGIN;
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'gus', 'idempotency_calls', 2, 'k');
SAVEPOINT s;
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'gus', 'idempotency_calls', 2, 'k');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'gus', 'idempotency_calls', 3, 'in savepoint');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'gus', 'idempotency_calls', 3, 'in savepoint');
ROLLBACK TO s;
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'gus', 'idempotency_calls', 3, 'in savepoint');
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'gus', 'idempotency_calls', 2, 'k');
COMMIT;
SELECT * FROM pg_temp.moved(:'gus') WHERE metric = 'idempotency_calls';
BEGIN;
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'gus', 'idempotency_calls', 1, 'rolled back');
ROLLBACK;
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'gus', 'idempotency_calls', 1, 'rolled back');

-- One key twice in one statement -------------------------------------------------------------------

SELECT (o).allowed, (o).already_processed, (o).used
	FROM (SELECT check_and_consume_quota(:'gus', 'idempotency_calls', 0.5, 'same') AS o FROM generate_series(1, 3) OFFSET 0) AS s;

-- A second write of a key is impossible even past the engine
INSERT INTO usage_events (id, user_id, metric, kind, amount, bonus_used, period, key_hash, created_at)
	SELECT gen_random_uuid(), user_id, metric, kind, amount, 0, period, key_hash, created_at
		FROM usage_events WHERE user_id = :'fay' AND key_hash IS NOT NULL;

SELECT count(*) FROM verify_ledger() AS v WHERE v.metric LIKE 'idempotency%';

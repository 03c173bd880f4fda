-- Callers behind HTTP: a key for requests that bring none, an outcome as a response.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, http_status) VALUES
	('http_calls', NULL), ('http_hours', NULL), ('http_monthly', NULL), ('http_once', NULL), ('http_soft', NULL), ('http_free', NULL),
	('http_unlisted', NULL), ('http_status', 418), ('http_tokens', 429), ('http_two', NULL), ('http "q" \ ü%', NULL);
INSERT INTO metric_aliases VALUES ('http_requests', 'http_calls');
INSERT INTO plans (plan, price, currency) VALUES
	('http_small', 10, 'EUR'), ('http_large', 30, 'EUR'), ('http_middle', 20.50, 'EUR'), ('http_cheap', 5, 'USD'), ('http_custom', NULL, 'EUR');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('http_small', 'http_calls', 'minute', 10), ('http_small', 'http_hours', '25 hours', 2), ('http_small', 'http_once', 'lifetime', 1),
	('http_small', 'http_free', 'month', NULL), ('http_small', 'http_status', 'month', 0.5), ('http_small', 'http_tokens', 'month', 4.9),
	('http_small', 'http_two', 'hour', 1), ('http_small', 'http_two', 'month', 100), ('http_small', 'http "q" \ ü%', '1 day', 1),
	('http_small', 'http_monthly', 'month', 100), ('http_middle', 'http_monthly', 'month', 500), ('http_large', 'http_monthly', 'month', NULL),
	('http_cheap', 'http_monthly', 'month', 200), ('http_custom', 'http_monthly', 'month', 1000),
	('http_large', 'http_once', 'lifetime', 5), ('http_custom', 'http_once', 'month', 50);
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price, spend_cap) VALUES
	('http_small', 'http_soft', 'day', 1, 'soft', 2, 4);
INSERT INTO topup_prices (plan, metric, unit_price) VALUES ('http_small', 'http_monthly', 0.2), ('http_small', 'http_two', 1);
SELECT md5('http ann')::uuid AS ann, md5('http ben')::uuid AS ben, md5('http cat')::uuid AS cat, md5('http dan')::uuid AS dan \gset
INSERT INTO subscriptions (user_id, plan) SELECT u, 'http_small' FROM unnest(ARRAY[:'ann', :'ben', :'dan']::uuid[]) AS u;

-- dedupe_key -----------------------------------------------------------------------------

CREATE FUNCTION pg_temp.click(p_at text, p_fingerprint text, p_window interval DEFAULT '5 seconds', p_user text DEFAULT 'http ben',
	p_metric text DEFAULT 'http_monthly', p_amount numeric DEFAULT 1, OUT allowed boolean, OUT replay boolean, OUT used numeric, OUT reason text)
	LANGUAGE plpgsql AS $$
DECLARE
	v_user	uuid := md5(p_user)::uuid;
BEGIN
	PERFORM set_config('quota.test_clock', '2026-03-10 12:00:' || p_at || '+00', false);
	SELECT o.allowed, o.already_processed, o.used, o.reason INTO allowed, replay, used, reason
		FROM check_and_consume_quota(v_user, p_metric, p_amount, dedupe_key(v_user, p_metric, p_fingerprint, p_window)) AS o;
END
$$;
-- windows of 5 s begin at :00, :05, :10 …: one request, its repetition in the same window, over the edge, and 1 us less than 5 s after the first
SELECT * FROM pg_temp.click('03', 'GET /a');
SELECT * FROM pg_temp.click('04.5', 'GET /a');
SELECT * FROM pg_temp.click('05', 'GET /a');
SELECT * FROM pg_temp.click('07.999999', 'GET /a');
-- 5 s after it is another one, though the last repetition was 1 us ago; and the next ones are told apart from both
SELECT * FROM pg_temp.click('08', 'GET /a');
SELECT * FROM pg_temp.click('12.9', 'GET /a');
SELECT * FROM pg_temp.click('13', 'GET /a');
-- two windows on, nothing is near
SELECT * FROM pg_temp.click('24', 'GET /a');
-- a clock that went back over an edge (a request that was slower than a later one) finds the next window
SELECT * FROM pg_temp.click('30.1', 'GET /b');
SELECT * FROM pg_temp.click('29.9', 'GET /b');
-- the others: fingerprint, subject, metric, window
SELECT * FROM pg_temp.click('40', 'GET /c');
SELECT * FROM pg_temp.click('40', 'GET /d');
SELECT * FROM pg_temp.click('40', 'GET /c', '6 seconds');
SELECT * FROM pg_temp.click('40', 'GET /c', p_user => 'http dan');
SELECT * FROM pg_temp.click('40', 'GET /c', p_metric => 'http_requests');
-- an alias is the metric
SELECT * FROM pg_temp.click('41', 'GET /c', p_metric => 'http_calls');
-- another amount is a conflict
SELECT * FROM pg_temp.click('41', 'GET /c', p_amount => 2);
-- a denial is decided again
SELECT * FROM pg_temp.click('42', 'GET /e', p_amount => 1000);
SELECT * FROM pg_temp.click('42.5', 'GET /e', p_amount => 1000);
SELECT * FROM pg_temp.click('42.6', 'GET /e');
-- the shortest window and the longest one: windows of a day begin at midnight
SELECT * FROM pg_temp.click('50', 'GET /f', '1 millisecond');
SELECT * FROM pg_temp.click('50.000999', 'GET /f', '1 millisecond');
SELECT * FROM pg_temp.click('50.001', 'GET /f', '1 millisecond');
SELECT * FROM pg_temp.click('50', 'GET /g', '24 hours');
SET quota.test_clock = '2026-03-11 12:00:49.999999+00';
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'ben', 'http_monthly', 1, dedupe_key(:'ben', 'http_monthly', 'GET /g', '1 day'));
SET quota.test_clock = '2026-03-11 12:00:50+00';
SELECT allowed, already_processed, used FROM check_and_consume_quota(:'ben', 'http_monthly', 1, dedupe_key(:'ben', 'http_monthly', 'GET /g', '1 day'));
-- within one statement and one transaction
BEGIN;
SELECT count(*), count(DISTINCT (o).event_id) AS events
	FROM (SELECT check_and_consume_quota(:'ben', 'http_monthly', 1, dedupe_key(:'ben', 'http_monthly', 'GET /h')) AS o FROM generate_series(1, 3) OFFSET 0) AS s;
ROLLBACK;
-- what was rolled back was not
SELECT already_processed FROM check_and_consume_quota(:'ben', 'http_monthly', 1, dedupe_key(:'ben', 'http_monthly', 'GET /h'));
-- the key tells nothing, is the same twice, and is not that of shifted parts
SELECT k ~ '^[0-9a-f]{64}$' AS hex, k = dedupe_key(:'ben', 'http_monthly', 'new') AS same, k <> dedupe_key(:'ben', 'http_monthly', 'new ') AS other
	FROM dedupe_key(:'ben', 'http_monthly', 'new') AS k;
-- before 1970, where numbers of windows are negative
SET quota.test_clock = '1969-12-31 23:59:59+00';
SELECT dedupe_key(:'ben', 'http_monthly', 'x') AS before \gset
SET quota.test_clock = '1970-01-01 00:00:00+00';
SELECT :'before' <> dedupe_key(:'ben', 'http_monthly', 'x') AS other_window;
SET quota.test_clock = '1969-12-31 23:59:55+00';
SELECT :'before' = dedupe_key(:'ben', 'http_monthly', 'x') AS same_window;
SET quota.test_clock = '2026-03-10 12:00:00+00';
-- bad input
SELECT dedupe_key(NULL, 'http_calls', 'x');
SELECT dedupe_key(:'ben', NULL, 'x');
SELECT dedupe_key(:'ben', 'http_cals', 'x');
SELECT dedupe_key(:'ben', 'http_calls', NULL);
SELECT dedupe_key(:'ben', 'http_calls', '');
SELECT dedupe_key(:'ben', 'http_calls', 'x', NULL);
SELECT dedupe_key(:'ben', 'http_calls', 'x', '0');
SELECT dedupe_key(:'ben', 'http_calls', 'x', '-5 seconds');
SELECT dedupe_key(:'ben', 'http_calls', 'x', '999 microseconds');
SELECT dedupe_key(:'ben', 'http_calls', 'x', '1 day 1 microsecond');
SELECT dedupe_key(:'ben', 'http_calls', 'x', '1 month');

-- http_response -------------------------------------------------------------------------------

\pset format unaligned
\pset expanded on
-- granted, at 12:00:10.25, in a minute window: t is 49.75 s, rounded up
SET quota.test_clock = '2026-03-10 12:00:10.25+00';
SELECT r.status, r.headers, r.body - 'event_id' AS body FROM check_and_consume_quota(:'ann', 'http_requests', 9.5) AS o, http_response(o) AS r;
-- 0.5 left are 0 whole ones
SELECT jsonb_typeof(body -> 'event_id') AS event_id, body ->> 'already_processed' AS replay
	FROM check_and_consume_quota(:'ann', 'http_calls', 0.25, 'key') AS o, http_response(o);
SELECT status, body ->> 'already_processed' AS replay FROM check_and_consume_quota(:'ann', 'http_calls', 0.25, 'key') AS o, http_response(o);
-- 422: the key for another amount; no quota-exceeded, no retry
SELECT r.* FROM check_and_consume_quota(:'ann', 'http_calls', 0.5, 'key') AS o, http_response(o) AS r;
-- 429: a minute is up to a day; Retry-After is not before t
SELECT r.* FROM check_and_consume_quota(:'ann', 'http_calls', 1) AS o, http_response(o) AS r;
-- just before the end it is one second, not none; more than the limit is never granted, so no Retry-After
SET quota.test_clock = '2026-03-10 12:00:59.999999+00';
SELECT status, headers FROM check_and_consume_quota(:'ann', 'http_calls', 1) AS o, http_response(o);
SELECT status, headers, body -> 'retry_after' AS retry_after FROM check_and_consume_quota(:'ann', 'http_calls', 11) AS o, http_response(o);
-- a day and an hour: 402, no Retry-After, but the body tells the time
SELECT allowed FROM check_and_consume_quota(:'ann', 'http_hours', 2);
SELECT status, headers ? 'Retry-After' AS retry, headers ->> 'RateLimit-Policy' AS policy, body ->> 'detail' AS detail, body -> 'upgrade' AS upgrade, body -> 'topup' AS topup,
		(body ->> 'retry_after')::numeric = ceil(extract(epoch FROM o.resets_at - clock())) AS tells_when
	FROM check_and_consume_quota(:'ann', 'http_hours', 1) AS o, http_response(o);
-- a month: of the plans with more than 100 the cheapest in euros is "middle" (500 for 20.50), not "cheap" in dollars; units are for sale
SELECT status FROM check_and_consume_quota(:'ann', 'http_monthly', 100) AS o, http_response(o);
SELECT r.* FROM check_and_consume_quota(:'ann', 'http_monthly', 1) AS o, http_response(o) AS r;
-- 600 are used already: "middle" does not help, the next by price is "large", which is unlimited
SELECT body -> 'upgrade' AS upgrade FROM check_and_consume_quota(:'ann', 'http_monthly', 1) AS o0,
	LATERAL (SELECT (jsonb_populate_record(o0, '{"used": 600}')).*) AS o, http_response(o);
-- an override goes before any plan: no upgrade
SELECT set_limit_override(:'ann', 'http_monthly', 90);
SELECT status, body -> 'limit' AS "limit", body -> 'upgrade' AS upgrade, body -> 'topup' AS topup FROM check_and_consume_quota(:'ann', 'http_monthly', 1) AS o, http_response(o);
SELECT clear_limit_override(:'ann', 'http_monthly');
-- lifetime: no w, no t; of the plans only "large" has more for a lifetime ("custom" has it for a month)
SELECT status, headers FROM check_and_consume_quota(:'ann', 'http_once', 1) AS o, http_response(o);
SELECT status, headers, body ->> 'detail' AS detail, body -> 'upgrade' AS upgrade, body -> 'topup' AS topup, body -> 'retry_after' AS retry_after
	FROM check_and_consume_quota(:'ann', 'http_once', 1) AS o, http_response(o);
-- unlimited: no fields of limits
SELECT status, headers, body - 'event_id' AS body FROM check_and_consume_quota(:'ann', 'http_free', 7) AS o, http_response(o);
-- 403: not in the plan; a subject without a plan
SELECT r.* FROM check_and_consume_quota(:'ann', 'http_unlisted', 1) AS o, http_response(o) AS r;
SELECT status, body ->> 'detail' AS detail FROM check_and_consume_quota(:'cat', 'http_calls', 1) AS o, http_response(o);
-- the status of the metric, for lack of quota only; with Retry-After where it is 429 or 503
SELECT status, headers ? 'Retry-After' AS retry, body -> 'status' AS body_status FROM check_and_consume_quota(:'ann', 'http_status', 1) AS o, http_response(o);
SELECT status FROM check_and_consume_quota(:'cat', 'http_status', 1) AS o, http_response(o);
SELECT status, headers FROM check_and_consume_quota(:'ann', 'http_tokens', 4.9) AS o, http_response(o);
SELECT status, headers ->> 'Retry-After' AS retry, ceil(extract(epoch FROM '2026-04-01 00:00+00'::timestamptz - clock())) AS expected
	FROM check_and_consume_quota(:'ann', 'http_tokens', 0.1) AS o, http_response(o);
-- soft: 1 from the limit and 2 beyond it cost 4, all that the cap allows; then it is money that lacks: 402, though it is a day
SELECT status, body -> 'granted' AS granted, body -> 'overage' AS overage, body -> 'cost' AS cost FROM check_and_consume_quota(:'ann', 'http_soft', 3) AS o, http_response(o);
SELECT status, body ->> 'reason' AS reason, body ->> 'detail' AS detail, headers ? 'Retry-After' AS retry FROM check_and_consume_quota(:'ann', 'http_soft', 0.5) AS o, http_response(o);
-- two windows: the hour denies, and what is bought extends only the month
SELECT status, body ->> 'period' AS period FROM check_and_consume_quota(:'ann', 'http_two', 1) AS o, http_response(o);
SELECT status, body -> 'topup' AS topup, body ->> 'period' AS period FROM check_and_consume_quota(:'ann', 'http_two', 1) AS o, http_response(o);
SELECT status, body -> 'topup' AS topup, body ->> 'period' AS period FROM check_quota(:'ann', 'http_two', 101) AS o0,
	LATERAL (SELECT (jsonb_populate_record(o0, '{"period": "month", "allowed": false, "reason": "quota_exceeded", "limit_amount": 100}')).*) AS o, http_response(o);
-- a name with what a structured field cannot hold: quotes and backslash escaped, other bytes and % as in URLs; "1 day" is "day"
SELECT headers ->> 'RateLimit-Policy' AS policy FROM check_and_consume_quota(:'ann', 'http "q" \ ü%', 1) AS o, http_response(o);
SELECT status, body -> 'violated-policies' AS policies FROM check_and_consume_quota(:'ann', 'http "q" \ ü%', 1) AS o, http_response(o);

\pset expanded off
-- Outcomes made by hand: what calls of other kinds answer
CREATE FUNCTION pg_temp.made(p_fields jsonb, OUT status integer, OUT retry text, OUT ratelimit text, OUT policy text, OUT body jsonb) LANGUAGE sql AS $$
	SELECT r.status, r.headers ->> 'Retry-After', r.headers ->> 'RateLimit', r.headers ->> 'RateLimit-Policy', jsonb_strip_nulls(r.body - 'type' - 'title' - 'metric')
		FROM http_response(jsonb_populate_record(NULL::quota.outcome, '{"metric": "http_unlisted", "allowed": false}' || p_fields)) AS r
$$;
SELECT * FROM pg_temp.made('{"reason": "spend_cap", "period": "day", "limit_amount": 1, "used": 1, "remaining": 0, "retry_after": "11:59:00.5"}');
SELECT * FROM pg_temp.made('{"reason": "blocked"}');
SELECT * FROM pg_temp.made('{"reason": "blocked", "period": "day", "limit_amount": 1, "remaining": 1, "retry_after": "1 day"}');
SELECT * FROM pg_temp.made('{"reason": "reservation_expired"}');
SELECT * FROM pg_temp.made('{"reason": "other_denied", "period": "day", "limit_amount": 5, "used": 1, "remaining": 4}');
SELECT * FROM pg_temp.made('{"reason": "other_denied", "period": "2 days", "limit_amount": 5, "used": 1, "remaining": 4}');
SELECT * FROM pg_temp.made('{"reason": "quota_exceeded", "period": "24 hours", "limit_amount": 5, "used": 5, "remaining": 0, "retry_after": "00:00:00"}');
SELECT * FROM pg_temp.made('{"reason": "quota_exceeded", "period": "day", "limit_amount": 1e17, "used": 0, "remaining": 1e16}');
SELECT * FROM pg_temp.made('{"reason": "quota_exceeded"}');
SELECT * FROM pg_temp.made('{"reason": "shadow", "allowed": true, "period": "week", "limit_amount": 5, "used": 9, "remaining": 0, "resets_at": "2026-03-09 00:00+00", "shortfall": 0.50, "granted": 4.000}');
-- bad input
SELECT http_response(NULL);
SELECT http_response(ROW(NULL, 1, 2, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::quota.outcome);
SELECT pg_temp.made('{"reason": "quota_exceeded", "period": "fortnight"}');

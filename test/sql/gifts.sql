-- Gifts: from giftable bonuses to another subject, within caps, once per key.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, gift_period, gift_sent_limit, gift_received_limit) VALUES
	('gifts_calls', NULL, NULL, NULL), ('gifts_capped', NULL, 10, 8), ('gifts_daily', 'day', 3, NULL), ('gifts_once', 'lifetime', 5, NULL),
	('gifts_closed', NULL, 0, NULL), ('gifts_free', NULL, NULL, NULL);
INSERT INTO metric_aliases VALUES ('gifts_requests', 'gifts_calls');
INSERT INTO plans (plan) VALUES ('gifts_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount)
	SELECT 'gifts_plan', metric, 'month', CASE WHEN metric <> 'gifts_free' THEN 10 END FROM metrics WHERE metric LIKE 'gifts%';
SELECT md5('gifts ann')::uuid AS ann, md5('gifts ben')::uuid AS ben, md5('gifts cat')::uuid AS cat, md5('gifts dan')::uuid AS dan,
	md5('gifts eve')::uuid AS eve, md5('gifts fay')::uuid AS fay, md5('gifts gus')::uuid AS gus, md5('gifts hal')::uuid AS hal \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'gifts_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus']::uuid[]) AS u;

-- what a subject has by name of the bonus
CREATE FUNCTION pg_temp.bonuses(p_user_id uuid, OUT bonus text, OUT amount numeric, OUT used numeric, OUT given numeric, OUT priority integer,
	OUT expires_at timestamptz, OUT source text, OUT giftable boolean, OUT unit_cost numeric, OUT currency text, OUT available boolean)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT b.reason, trim_scale(b.amount), trim_scale(b.used_amount), trim_scale(b.given_amount), b.priority, b.expires_at, b.source, b.giftable, b.unit_cost,
			b.currency, b.available
		FROM quota.user_bonuses b WHERE b.user_id = p_user_id ORDER BY b.reason, b.priority
$$;

-- One bonus ---------------------------------------------------------------------------

SELECT grant_bonus(:'ann', 'gifts_calls', 5, '2026-06-01 00:00+00', 'A', 40, 'paid', true, 0.25, 'EUR', 'order') IS NOT NULL AS granted;
SELECT g.gift_id IS NOT NULL AS id, g.allowed, g.reason, g.amount, g.giver_remaining, g.receiver_remaining, g.already_processed
	FROM gift_quota(:'ann', :'ben', 'gifts_calls', 2.5, NULL, 'from ann') AS g;
SELECT * FROM pg_temp.bonuses(:'ann');
-- expiry, priority and cost stay
SELECT * FROM pg_temp.bonuses(:'ben');
SELECT granted_at, transaction_id FROM user_bonuses WHERE user_id = :'ben';
-- both can use what they have now
SELECT allowed, bonus_used, remaining FROM check_and_consume_quota(:'ben', 'gifts_calls', 12.5);
SELECT allowed, reason, trim_scale(remaining) AS remaining FROM check_and_consume_quota(:'ann', 'gifts_calls', 12.6);
SELECT allowed, trim_scale(bonus_used) AS bonus_used, trim_scale(remaining) AS remaining FROM check_and_consume_quota(:'ann', 'gifts_calls', 12);
-- what was used is not given, nor more than there is
SELECT gift_id, allowed, reason, amount, trim_scale(giver_remaining) AS giver, receiver_remaining AS receiver, already_processed FROM gift_quota(:'ann', :'cat', 'gifts_calls', 0.500001);
SELECT allowed, reason, amount, giver_remaining, receiver_remaining FROM gift_quota(:'ann', :'cat', 'gifts_requests', 0.5);
SELECT * FROM pg_temp.bonuses(:'ann');
SELECT to_user_id = :'cat' AS to_cat, from_user_id = :'ann' AS from_ann, metric, amount, reason, key_hash, giver_remaining, receiver_remaining, created_at
	FROM gifts WHERE metric = 'gifts_calls' ORDER BY amount;

-- Only giftable ones, and a gift is given once ---------------------------------------------

SELECT grant_bonus(:'ben', 'gifts_calls', 4, NULL, 'B') IS NOT NULL AS granted;
SELECT allowed, reason, amount FROM gift_quota(:'cat', :'dan', 'gifts_calls', 0.5);
SELECT allowed, reason, amount FROM gift_quota(:'ben', :'ann', 'gifts_calls', 1);
SELECT gift_quota(:'ann', :'ann', 'gifts_calls', 1);
-- one metric's bonuses are no other's
SELECT grant_bonus(:'ben', 'gifts_free', 4, NULL, 'C', p_giftable => true) IS NOT NULL AS granted;
SELECT allowed, reason, amount FROM gift_quota(:'ben', :'ann', 'gifts_calls', 1);
-- unlimited has unlimited left; whoever has no plan may receive, and use it when it has one
SELECT allowed, reason, amount, giver_remaining, receiver_remaining FROM gift_quota(:'ben', :'hal', 'gifts_free', 4);
SELECT * FROM pg_temp.bonuses(:'hal');

-- In the order of use, a line for each -----------------------------------------------------

INSERT INTO user_bonuses (user_id, metric, amount, used_amount, held_amount, given_amount, priority, expires_at, source, giftable, unit_cost, currency, reason, voided_at) VALUES
	(:'dan', 'gifts_calls', 3,   0, 0,    0, 50, NULL,                  'paid',        true,  2,    'EUR', '5 paid',             NULL),
	(:'dan', 'gifts_calls', 3,   0, 0,    0, 50, NULL,                  'promotional', true,  NULL, NULL,  '4 promotional',      NULL),
	(:'dan', 'gifts_calls', 3,   1, 0.5,  1, 50, '2026-04-01 00:00+00', 'paid',        true,  1,    'USD', '3 begun, expires',   NULL),
	(:'dan', 'gifts_calls', 3,   0, 0,    0, 10, NULL,                  'rollover',    true,  NULL, NULL,  '2 first',            NULL),
	(:'dan', 'gifts_calls', 3,   0, 3,    0, 1,  NULL,                  'promotional', true,  NULL, NULL,  '1 held',             NULL),
	(:'dan', 'gifts_calls', 3,   0, 0,    0, 1,  '2026-03-10 12:00+00', 'promotional', true,  NULL, NULL,  '1 expired',          NULL),
	(:'dan', 'gifts_calls', 3,   0, 0,    0, 1,  NULL,                  'promotional', true,  NULL, NULL,  '1 void',             '2026-03-01'),
	(:'dan', 'gifts_calls', 3,   0, 0,    0, 1,  NULL,                  'promotional', false, NULL, NULL,  '1 not giftable',     NULL);
SELECT allowed, reason FROM gift_quota(:'dan', :'eve', 'gifts_calls', 9.500001);
SELECT allowed, reason, amount FROM gift_quota(:'dan', :'eve', 'gifts_calls', 7, NULL, 'from dan');
SELECT bonus, amount, used, given, available FROM pg_temp.bonuses(:'dan');
SELECT * FROM pg_temp.bonuses(:'eve') ORDER BY priority, expires_at, amount DESC;
SELECT l.ordinal, s.reason AS source, l.amount, r.amount = l.amount AS same, r.expires_at IS NOT DISTINCT FROM s.expires_at AS keeps_expiry
	FROM gift_lines l JOIN user_bonuses s ON s.id = l.from_bonus_id JOIN user_bonuses r ON r.id = l.to_bonus_id WHERE s.user_id = :'dan' ORDER BY 1;
SELECT allowed, reason, amount FROM gift_quota(:'dan', :'eve', 'gifts_calls', 2.5);
SELECT allowed, reason, amount FROM gift_quota(:'dan', :'eve', 'gifts_calls', 0.000001);

-- Once for a key ---------------------------------------------------------------------------

SELECT grant_bonus(:'fay', 'gifts_calls', 100, NULL, 'A', p_giftable => true) IS NOT NULL AS granted;
SELECT allowed, reason, amount, giver_remaining, receiver_remaining, already_processed, gift_id AS first FROM gift_quota(:'fay', :'gus', 'gifts_calls', 10, 'k', 'thanks') \gset
SELECT :'allowed', :'reason', :'amount', :'giver_remaining', :'receiver_remaining', :'already_processed';
-- the first answer again, whatever has happened since
SELECT allowed FROM check_and_consume_quota(:'fay', 'gifts_calls', 50);
SELECT gift_id = :'first' AS same, allowed, reason, amount, giver_remaining, receiver_remaining, already_processed FROM gift_quota(:'fay', :'gus', 'gifts_requests', 10.00, 'k');
-- another amount is never given, never replayed
SELECT gift_id, allowed, reason, amount, giver_remaining, receiver_remaining, already_processed FROM gift_quota(:'fay', :'gus', 'gifts_calls', 11, 'k');
-- another receiver, metric or key is another gift, and what runs into each other is not the same
SELECT gift_id = :'first' AS same, allowed, already_processed FROM gift_quota(:'fay', :'eve', 'gifts_calls', 10, 'k');
SELECT gift_id = :'first' AS same, allowed, already_processed FROM gift_quota(:'fay', :'gus', 'gifts_calls', 10, 'k ');
-- a denial is not pinned to its key
SELECT allowed, reason, already_processed FROM gift_quota(:'fay', :'gus', 'gifts_free', 1, 'k');
SELECT grant_bonus(:'fay', 'gifts_free', 1, p_giftable => true) IS NOT NULL AS granted;
SELECT allowed, reason, already_processed FROM gift_quota(:'fay', :'gus', 'gifts_free', 1, 'k');
SELECT allowed, reason, already_processed FROM gift_quota(:'fay', :'gus', 'gifts_free', 1, 'k');
-- the key itself is not stored
SELECT DISTINCT octet_length(key_hash) FROM gifts WHERE from_user_id = :'fay';
SELECT given_amount FROM user_bonuses WHERE user_id = :'fay' AND metric = 'gifts_calls';
-- one call, two rows in the log; an attempt that fails concerns the giver only
SELECT CASE user_id WHEN :'fay' THEN 'fay' WHEN :'gus' THEN 'gus' ELSE 'eve' END AS who, action, metric, attempted_amount, success, reason, remaining, actor,
		detail - 'gift_id' - 'from' - 'to' AS detail, detail ->> 'gift_id' = :'first' AS first, detail ->> 'from' = :'fay' AS from_fay, event_id
	FROM quota_audit_log WHERE detail ->> 'from' = :'fay' ORDER BY metric, attempted_amount, action, reason, 1, remaining;

-- What is held cannot be given; once a reservation has lapsed it holds nothing ---------------

SELECT grant_bonus(:'eve', 'gifts_free', 10, NULL, 'E', p_giftable => true) IS NOT NULL, grant_bonus(:'eve', 'gifts_once', 10, NULL, 'E', p_giftable => true) IS NOT NULL;
SELECT allowed, granted FROM reserve_quota(:'eve', 'gifts_once', 16, '1 minute');
SELECT allowed, reason FROM gift_quota(:'eve', :'dan', 'gifts_once', 4.5);
SELECT allowed, reason FROM gift_quota(:'eve', :'dan', 'gifts_once', 4);
SET quota.test_clock = '2026-03-10 12:01:00+00';
UPDATE metrics SET gift_sent_limit = NULL WHERE metric = 'gifts_once';
SELECT allowed, reason FROM gift_quota(:'eve', :'dan', 'gifts_once', 6);
UPDATE metrics SET gift_sent_limit = 5 WHERE metric = 'gifts_once';
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- A gift is a new bonus: it pays for arrears first ------------------------------------------------

INSERT INTO metrics (metric) VALUES ('gifts_soft');
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES ('gifts_plan', 'gifts_soft', 'month', 10, 'soft', 2);
SELECT grant_bonus(:'eve', 'gifts_soft', 10, NULL, 'E', p_giftable => true) IS NOT NULL AS granted;
SELECT allowed, reason, overage, cost FROM check_and_consume_quota(:'dan', 'gifts_soft', 13);
SELECT allowed, reason, amount, giver_remaining, receiver_remaining FROM gift_quota(:'eve', :'dan', 'gifts_soft', 5);
SELECT used, bonus_used, overage, cost FROM usage_tracking WHERE user_id = :'dan' AND metric = 'gifts_soft';

-- Caps ---------------------------------------------------------------------------------------

SELECT grant_bonus(u, m, 100, p_giftable => true) IS NOT NULL AS granted FROM unnest(ARRAY[:'ann', :'ben']::uuid[]) AS u, unnest(ARRAY['gifts_capped', 'gifts_daily', 'gifts_once', 'gifts_closed']) AS m;
-- a month, 10 sent, 8 received
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_capped', 10.000001);
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_capped', 8.000001);
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_capped', 8);
SELECT allowed, reason FROM gift_quota(:'ben', :'cat', 'gifts_capped', 0.000001);
SELECT allowed, reason FROM gift_quota(:'ann', :'dan', 'gifts_capped', 2.000001);
SELECT allowed, reason FROM gift_quota(:'ann', :'dan', 'gifts_capped', 2);
SELECT allowed, reason FROM gift_quota(:'ann', :'dan', 'gifts_capped', 0.000001);
-- more than there is counts before the caps
SELECT allowed, reason FROM gift_quota(:'ann', :'dan', 'gifts_capped', 101);
-- what was received is no part of what is sent, and the month ends with the month
SELECT allowed, reason FROM gift_quota(:'ben', :'ann', 'gifts_capped', 8);
SET quota.test_clock = '2026-03-31 23:59:59.999999+00';
SELECT allowed, reason FROM gift_quota(:'ann', :'dan', 'gifts_capped', 1);
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_capped', 8);
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_capped', 1);
-- a new cap, or another period, counts what was given already
UPDATE metrics SET gift_received_limit = NULL, gift_sent_limit = 18, gift_period = 'quarter' WHERE metric = 'gifts_capped';
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_capped', 10);
UPDATE metrics SET gift_period = 'year', gift_sent_limit = 28.5 WHERE metric = 'gifts_capped';
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_capped', 1);
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_capped', 0.5);
-- a day
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_daily', 3), gift_quota(:'ben', :'cat', 'gifts_daily', 3) AS b (b1, b2, b3, b4, b5, b6, b7);
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_daily', 1);
SET quota.test_clock = '2026-04-02 00:00:00+00';
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_daily', 3);
-- once and for all
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_once', 5);
SET quota.test_clock = '2030-01-01 00:00:00+00';
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_once', 0.5);
-- never
SELECT allowed, reason FROM gift_quota(:'ann', :'cat', 'gifts_closed', 0.5);
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- What is given is undone with the transaction that gave it
BEGIN;
SELECT allowed FROM gift_quota(:'fay', :'gus', 'gifts_calls', 5, 'undone');
ROLLBACK;
SELECT allowed, already_processed FROM gift_quota(:'fay', :'gus', 'gifts_calls', 4, 'undone');

-- What cannot be -----------------------------------------------------------------------------

CREATE FUNCTION pg_temp.sqlstate_of(p_call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SELECT * FROM quota.' || p_call USING md5('gifts fay')::uuid, md5('gifts gus')::uuid;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
CREATE TEMP VIEW written AS SELECT 'bonuses' AS what, b::text AS stored FROM user_bonuses b UNION ALL SELECT 'gifts', g::text FROM gifts g
	UNION ALL SELECT 'lines', l::text FROM gift_lines l UNION ALL SELECT 'parties', p::text FROM gift_parties p
	UNION ALL SELECT 'log', l::text FROM quota_audit_log l UNION ALL SELECT 'accounts', a::text FROM usage_tracking a;
CREATE TEMP TABLE before AS TABLE written;
SELECT call, pg_temp.sqlstate_of(call) AS sqlstate FROM unnest(ARRAY[
	$$gift_quota(NULL, $2, 'gifts_calls', 1)$$, $$gift_quota($1, NULL, 'gifts_calls', 1)$$, $$gift_quota('x', $2, 'gifts_calls', 1)$$,
	$$gift_quota($1, $1, 'gifts_calls', 1)$$, $$gift_quota($1, $2, NULL, 1)$$, $$gift_quota($1, $2, '', 1)$$, $$gift_quota($1, $2, 'gifts_cals', 1)$$,
	$$gift_quota($1, $2, 'gifts_calls', NULL)$$, $$gift_quota($1, $2, 'gifts_calls', 0)$$, $$gift_quota($1, $2, 'gifts_calls', -1)$$,
	$$gift_quota($1, $2, 'gifts_calls', 'NaN')$$, $$gift_quota($1, $2, 'gifts_calls', 'Infinity')$$, $$gift_quota($1, $2, 'gifts_calls', 1e-7)$$,
	$$gift_quota($1, $2, 'gifts_calls', 1e18)$$, $$gift_quota($1, $2, 'gifts_calls', 1, '')$$]) AS call;
UPDATE metrics SET gift_period = 'fortnight' WHERE metric = 'gifts_calls';
UPDATE metrics SET gift_sent_limit = -1 WHERE metric = 'gifts_calls';
BEGIN READ ONLY;
SELECT * FROM gift_quota(:'fay', :'gus', 'gifts_calls', 1);
ROLLBACK;
SELECT * FROM (TABLE written EXCEPT TABLE before) AS added UNION ALL SELECT * FROM (TABLE before EXCEPT TABLE written) AS lost;
\set VERBOSITY default
SELECT * FROM gift_quota(:'fay', :'gus', 'gifts_calls', 1, '');
\set VERBOSITY sqlstate
-- odd, and accepted
SELECT allowed FROM gift_quota(:'fay', :'gus', 'gifts_calls', 1.0000000, repeat('k', 10240));
SELECT allowed, already_processed FROM gift_quota(:'fay', :'gus', 'gifts_calls', 1, repeat('k', 10240));

-- A trigger that suppresses a row: an error, and nothing of the gift stays
CREATE FUNCTION public.gifts_suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION pg_temp.suppressed(p_event text, p_table text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	v_answer	text;
BEGIN
	EXECUTE format('CREATE TRIGGER suppress BEFORE %s ON quota.%I FOR EACH ROW EXECUTE FUNCTION public.gifts_suppress()', p_event, p_table);
	v_answer := pg_temp.sqlstate_of($_$gift_quota($1, $2, 'gifts_calls', 1)$_$);
	EXECUTE format('DROP TRIGGER suppress ON quota.%I', p_table);
	RETURN v_answer;
END
$$;
DROP TABLE before;
CREATE TEMP TABLE before AS TABLE written;
SELECT event, t AS "table", pg_temp.suppressed(event, t) FROM (VALUES ('INSERT', 'gifts'), ('INSERT', 'gift_lines'), ('UPDATE', 'gift_parties'),
	('INSERT', 'user_bonuses'), ('UPDATE', 'user_bonuses'), ('INSERT', 'quota_audit_log')) AS v (event, t);
DELETE FROM gift_parties;
SELECT pg_temp.suppressed('INSERT', 'gift_parties');
INSERT INTO gift_parties SELECT (l.p).* FROM (SELECT stored::gift_parties AS p FROM before WHERE what = 'parties') AS l;
SELECT * FROM (TABLE written EXCEPT TABLE before) AS added UNION ALL SELECT * FROM (TABLE before EXCEPT TABLE written) AS lost;
DROP FUNCTION public.gifts_suppress();

-- Who may ------------------------------------------------------------------------------------

CREATE ROLE regress_gifts_none;
CREATE ROLE regress_gifts_app;
CREATE ROLE regress_gifts_monitor;
CREATE ROLE regress_gifts_admin;
SELECT grant_access('regress_gifts_app', 'app'), grant_access('regress_gifts_monitor', 'monitor'), grant_access('regress_gifts_admin', 'admin');
CREATE FUNCTION pg_temp.as_all(p_statement text, OUT nobody text, OUT app text, OUT monitor text, OUT admin text) LANGUAGE plpgsql AS $$
BEGIN
	SET LOCAL ROLE regress_gifts_none;
	nobody := pg_temp.sqlstate_of(p_statement);
	SET LOCAL ROLE regress_gifts_app;
	app := pg_temp.sqlstate_of(p_statement);
	SET LOCAL ROLE regress_gifts_monitor;
	monitor := pg_temp.sqlstate_of(p_statement);
	SET LOCAL ROLE regress_gifts_admin;
	admin := pg_temp.sqlstate_of(p_statement);
	RESET ROLE;
END
$$;
BEGIN;
SELECT call, s.* FROM unnest(ARRAY[$$gift_quota($1, $2, 'gifts_calls', 1)$$, $$gift_denial($1, $2, 'gifts_calls', 1, now())$$,
		$$move_gift($1, $1, $2, 'gifts_calls', 1, NULL, now())$$, $$gift_key_hash($1, $2, 'gifts_calls', 'k')$$,
		$$record_gift(now(), 'gift_sent', $1, 'gifts_calls', 1, 'ok', 1, NULL)$$, $$gifts$$, $$gift_lines$$, $$gift_parties$$]) AS call,
	LATERAL pg_temp.as_all(call) AS s;
ROLLBACK;
DROP OWNED BY regress_gifts_none, regress_gifts_app, regress_gifts_monitor, regress_gifts_admin;
DROP ROLE regress_gifts_none, regress_gifts_app, regress_gifts_monitor, regress_gifts_admin;

-- Books: what bonuses gave is what lines say, what lines say is what gifts say, and each line is a bonus received
SELECT b.reason, b.given_amount, l.amount FROM user_bonuses b LEFT JOIN LATERAL (SELECT coalesce(sum(amount), 0) AS amount FROM gift_lines WHERE from_bonus_id = b.id) AS l ON true
	WHERE b.metric LIKE 'gifts%' AND b.given_amount <> l.amount;
SELECT g.amount FROM gifts g WHERE g.amount <> (SELECT sum(l.amount) FROM gift_lines l WHERE l.gift_id = g.id);
SELECT l.amount FROM gift_lines l JOIN gifts g ON g.id = l.gift_id LEFT JOIN user_bonuses b ON b.id = l.to_bonus_id AND b.user_id = g.to_user_id
	WHERE (b.amount = l.amount AND b.source = 'gift' AND NOT b.giftable) IS NOT TRUE;
SELECT kind, count(*) FROM usage_events WHERE user_id = :'eve' GROUP BY kind ORDER BY kind;
SELECT count(*) FROM verify_ledger() AS v WHERE v.metric LIKE 'gifts%' AND v.user_id <> :'dan';

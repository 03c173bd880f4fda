-- Bonuses that are given with a cost, bought by a price list, and taken back.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('billing_scans', 'counter'), ('billing_calls', 'counter'), ('billing_free', 'counter'), ('billing_unpriced', 'counter'),
	('billing_unlisted', 'counter'), ('billing_hard', 'counter');
INSERT INTO metric_aliases VALUES ('billing_pictures', 'billing_scans');
INSERT INTO plans (plan, price, currency) VALUES ('billing_plan', 100, 'EUR'), ('billing_big', 1000, 'THB'), ('billing_mute', NULL, NULL);
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES
	('billing_plan', 'billing_scans',    'month',    200,  'soft', 60),
	-- the day's price is none of the allowance
	('billing_plan', 'billing_scans',    'day',      1000, 'soft', 7),
	('billing_plan', 'billing_calls',    'month',    10,   'hard', NULL),
	('billing_plan', 'billing_free',     'month',    NULL, 'hard', NULL),
	('billing_plan', 'billing_unpriced', 'month',    10,   'soft', NULL),
	('billing_plan', 'billing_hard',     'lifetime', 10,   'hard', NULL),
	('billing_big',  'billing_scans',    'month',    500,  'soft', 45),
	('billing_mute', 'billing_calls',    'month',    10,   'hard', NULL);
INSERT INTO topup_prices (plan, metric, min_amount, unit_price, discount, currency) VALUES
	('billing_plan', 'billing_scans',    0,    NULL, 0.2,      NULL),
	('billing_plan', 'billing_scans',    1000, NULL, 0.333333, NULL),
	('billing_plan', 'billing_calls',    5,    0.5,  NULL,     NULL),
	('billing_plan', 'billing_calls',    50,   0.4,  NULL,     'USD'),
	('billing_plan', 'billing_free',     0,    0,    NULL,     NULL),
	('billing_plan', 'billing_unpriced', 0,    NULL, 0.2,      NULL),
	('billing_big',  'billing_scans',    0,    NULL, 0,        NULL),
	('billing_mute', 'billing_calls',    0,    1,    NULL,     NULL);
SELECT md5('billing ann')::uuid AS ann, md5('billing ben')::uuid AS ben, md5('billing cat')::uuid AS cat,
	md5('billing dan')::uuid AS dan, md5('billing eve')::uuid AS eve, md5('billing fay')::uuid AS fay, md5('billing gus')::uuid AS gus \gset
INSERT INTO subscriptions (user_id, plan) SELECT u, 'billing_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve']::uuid[]) AS u;
INSERT INTO subscriptions (user_id, plan) VALUES (:'fay', 'billing_mute');

-- Given with a cost ---------------------------------------------------------------------

SELECT grant_bonus(:'ann', 'billing_calls', 5, NULL, 'A', 10, 'paid', true, 0.25, 'EUR', 'order 1') AS bonus \gset
SELECT grant_bonus(p_user_id => :'ann', p_metric => 'billing_calls', p_amount => 2, p_reason => 'B') IS NOT NULL AS granted;
SELECT reason, amount, priority, source, giftable, unit_cost, currency, transaction_id, available FROM user_bonuses WHERE user_id = :'ann' ORDER BY reason;
-- the same transaction gives once, whatever else is told; another amount is a mistake
SELECT grant_bonus(:'ann', 'billing_calls', 5.0, p_transaction_id => 'order 1') = :'bonus' AS same;
SELECT grant_bonus(:'ann', 'billing_calls', 6, p_transaction_id => 'order 1');
-- of another metric or subject it is another one
SELECT grant_bonus(:'ann', 'billing_free', 6, p_transaction_id => 'order 1') = :'bonus' AS same;
SELECT grant_bonus(:'ben', 'billing_calls', 6, p_transaction_id => 'order 1') = :'bonus' AS same;
SELECT count(*), sum(amount) FROM user_bonuses WHERE user_id = :'ann' AND metric = 'billing_calls';
SELECT success, reason, attempted_amount, (detail -> 'new') - 'bonus_id' AS new, detail -> 'old' ->> 'bonus_id' = :'bonus' AS was_there FROM quota_audit_log
	WHERE user_id = :'ann' AND metric = 'billing_calls' ORDER BY reason;

-- The price list ------------------------------------------------------------------------

SELECT * FROM topup_price(:'ann', 'billing_scans', 100);
SELECT * FROM topup_price(:'ann', 'billing_pictures', 0.5);
-- the discount of large amounts counts for all units
SELECT * FROM topup_price(:'ann', 'billing_scans', 999.999999);
SELECT * FROM topup_price(:'ann', 'billing_scans', 1000);
SELECT * FROM topup_price(:'ann', 'billing_calls', 4);
SELECT * FROM topup_price(:'ann', 'billing_calls', 5);
SELECT * FROM topup_price(:'ann', 'billing_calls', 50);
SELECT * FROM topup_price(:'ann', 'billing_free', 7);
SELECT * FROM topup_price(:'ann', 'billing_unpriced', 1);
SELECT * FROM topup_price(:'ann', 'billing_hard', 1);
SELECT * FROM topup_price(:'fay', 'billing_calls', 1);
-- by the plan in force: of the subscription, of its change once that is due, or the default
UPDATE subscriptions SET pending_plan = 'billing_big', pending_at = '2026-03-10 12:00:01+00' WHERE user_id = :'eve';
SELECT * FROM topup_price(:'eve', 'billing_scans', 1);
SET quota.test_clock = '2026-03-10 12:00:01+00';
SELECT * FROM topup_price(:'eve', 'billing_scans', 1);
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT * FROM topup_price(:'gus', 'billing_scans', 1);
SET quota.default_plan = 'billing_plan';
SELECT * FROM topup_price(:'gus', 'billing_scans', 1);
RESET quota.default_plan;
INSERT INTO subscriptions (user_id, plan, parent) VALUES (:'gus', NULL, :'ann');
SELECT * FROM topup_price(:'gus', 'billing_scans', 1);
\set VERBOSITY default
SELECT * FROM topup_price(:'ann', 'billing_calls', 4);
SELECT * FROM topup_price(:'ann', 'billing_unpriced', 1);
SELECT * FROM topup_price(:'ann', 'billing_hard', 1);
\set VERBOSITY sqlstate

-- Bought ----------------------------------------------------------------------------------

SELECT amount, unit_price, price, currency, total_available, transaction_id, already_processed
	FROM purchase_topup(:'cat', 'billing_scans', 100, 'pay 1', '2026-06-01 00:00+00', 'more');
SELECT metric, amount, used_amount, priority, expires_at, source, reason, granted_at, giftable, unit_cost, currency, transaction_id, available
	FROM user_bonuses WHERE user_id = :'cat';
-- the same again is answered the same, even if all has changed since
UPDATE topup_prices SET discount = 0.5 WHERE plan = 'billing_plan' AND metric = 'billing_scans' AND min_amount = 0;
SELECT allowed, remaining FROM check_and_consume_quota(:'cat', 'billing_scans', 250);
SET quota.test_clock = '2026-07-10 12:00:00+00';
SELECT b.id = p.bonus_id AS same, p.amount, p.unit_price, p.price, p.currency, p.total_available, p.transaction_id, p.already_processed
	FROM purchase_topup(:'cat', 'billing_pictures', 100.0, 'pay 1', '2026-06-01 00:00+00') AS p, user_bonuses b WHERE b.user_id = :'cat';
DELETE FROM topup_prices WHERE plan = 'billing_plan' AND metric = 'billing_scans';
SELECT price, total_available, already_processed FROM purchase_topup(:'cat', 'billing_scans', 100, 'pay 1');
SET quota.test_clock = '2026-03-10 12:00:00+00';
-- another amount is a mistake; of another metric or subject it is another purchase
SELECT * FROM purchase_topup(:'cat', 'billing_scans', 101, 'pay 1');
SELECT price, total_available, already_processed FROM purchase_topup(:'cat', 'billing_calls', 5, 'pay 1');
SELECT price, currency, total_available, already_processed FROM purchase_topup(:'ben', 'billing_calls', 100, 'pay 1');
SELECT count(*) FROM user_bonuses WHERE user_id = :'cat';
\set VERBOSITY default
SELECT * FROM purchase_topup(:'cat', 'billing_calls', 6, 'pay 1');
-- a bonus that was given with the id was not bought
SELECT grant_bonus(:'cat', 'billing_calls', 6, p_transaction_id => 'pay 2') AS bonus \gset
\set VERBOSITY sqlstate
SELECT * FROM purchase_topup(:'cat', 'billing_calls', 6, 'pay 2');
SELECT * FROM purchase_topup(:'cat', 'billing_calls', 7, 'pay 2');
-- without a transaction id each is a purchase of its own
SELECT transaction_id ~ '^topup_[0-9a-f-]{36}$' AS made_up, already_processed, total_available FROM purchase_topup(:'dan', 'billing_calls', 5);
SELECT transaction_id ~ '^topup_[0-9a-f-]{36}$' AS made_up, already_processed, total_available FROM purchase_topup(:'dan', 'billing_calls', 5);
-- and can be repeated by the one that was made up
SELECT total_available, already_processed FROM purchase_topup(:'dan', 'billing_calls', 5, (SELECT transaction_id FROM user_bonuses b JOIN topups t ON t.bonus_id = b.id
	WHERE b.user_id = :'dan' AND t.total_available = 15));
-- unlimited has unlimited left; it costs what the list says; no currency where the plan has none
SELECT price, currency, total_available FROM purchase_topup(:'dan', 'billing_free', 3, 'pay 3');
SELECT price, currency, total_available FROM purchase_topup(:'fay', 'billing_calls', 3, 'pay 3');
-- in the account's books, and in the log, once
SELECT b.metric, b.transaction_id, t.plan, t.unit_price, t.price, t.currency, t.total_available, t.created_at FROM topups t JOIN user_bonuses b ON b.id = t.bonus_id
	WHERE b.user_id = :'cat' ORDER BY b.metric;
SELECT metric, success, reason, attempted_amount, (detail -> 'new') - 'bonus_id' AS new, detail -> 'old' <> 'null' AS was_there FROM quota_audit_log
	WHERE user_id = :'cat' AND action = 'purchase_topup' ORDER BY metric, reason, created_at;
-- what is bought is not used
SELECT coalesce(sum(used + bonus_used + overage + held), 0) AS moved FROM usage_tracking WHERE user_id = :'dan';
SELECT count(*) FROM usage_events WHERE user_id = :'dan';

-- Taken back --------------------------------------------------------------------------------

SELECT grant_bonus(:'eve', 'billing_hard', 5, NULL, 'A', 1) AS a, grant_bonus(:'eve', 'billing_hard', 7, NULL, 'B', 2) AS b,
	grant_bonus(:'eve', 'billing_hard', 3, '2026-03-11', 'C', 0) AS c \gset
SELECT allowed, remaining, bonus_used FROM check_and_consume_quota(:'eve', 'billing_hard', 15.25);
-- C paid 3 and A 2.25
SELECT void_bonus(:'a', 'a mistake') AS taken_back;
SELECT allowed, remaining, bonus_remaining FROM check_quota(:'eve', 'billing_hard', 8);
SELECT void_bonus(:'a') AS taken_back;
SELECT void_bonus(:'c') AS taken_back;
SELECT void_bonus(:'b') AS taken_back;
SELECT allowed, remaining, bonus_remaining FROM check_quota(:'eve', 'billing_hard', 0.000001);
SELECT reason, trim_scale(amount) AS amount, trim_scale(used_amount) AS used, voided_at, available FROM user_bonuses WHERE user_id = :'eve' ORDER BY reason;
SELECT reason, attempted_amount, detail #- '{old,bonus_id}' AS detail, detail #>> '{old,bonus_id}' = :'a' AS of_a FROM quota_audit_log
	WHERE user_id = :'eve' AND action = 'void_bonus' ORDER BY reason, of_a, attempted_amount;
-- an expired one has nothing to take back
SELECT grant_bonus(:'eve', 'billing_hard', 3, '2026-03-11', 'D') AS d \gset
SET quota.test_clock = '2026-03-11 00:00:00+00';
SELECT void_bonus(:'d') AS taken_back;
SELECT voided_at FROM user_bonuses WHERE id = :'d';
SET quota.test_clock = '2026-03-10 12:00:00+00';
-- what was given away or is held stays where it is
INSERT INTO user_bonuses (user_id, metric, amount, used_amount, held_amount, given_amount) VALUES (:'gus', 'billing_hard', 10, 1, 2, 3) RETURNING id AS e \gset
SELECT void_bonus(:'e') AS taken_back;
SELECT used_amount, held_amount, given_amount, available FROM user_bonuses WHERE id = :'e';
DELETE FROM user_bonuses WHERE id = :'e';

-- (of what is really held; once a reservation has lapsed it holds nothing)
SELECT grant_bonus(:'fay', 'billing_calls', 10, NULL, 'F', 1) AS f \gset
SELECT allowed, granted, remaining, reservation_id AS r FROM reserve_quota(:'fay', 'billing_calls', 14, '1 minute') \gset
SELECT void_bonus(:'f') AS taken_back;
SELECT used_amount, held_amount FROM user_bonuses WHERE id = :'f';
SELECT allowed, remaining, bonus_remaining FROM check_quota(:'fay', 'billing_calls');
SELECT allowed, granted, bonus_used, remaining FROM settle_reservation(:'r', 12);
SELECT used_amount, held_amount FROM user_bonuses WHERE id = :'f';
SELECT allowed, remaining, bonus_remaining FROM check_quota(:'fay', 'billing_calls');
SELECT grant_bonus(:'fay', 'billing_calls', 10, NULL, 'G', 1) AS g \gset
SELECT allowed, granted, reservation_id IS NOT NULL AS reserved FROM reserve_quota(:'fay', 'billing_calls', 6, '1 minute');
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT void_bonus(:'g') AS taken_back;
SELECT used_amount, held_amount FROM user_bonuses WHERE id = :'g';
SELECT kind, amount, held, held_bonus FROM usage_events WHERE user_id = :'fay' ORDER BY kind, held;
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- Arrears: what was used beyond the limit is paid by the next bonus ----------------------------

SELECT allowed, reason, overage, cost, remaining FROM check_and_consume_quota(:'ben', 'billing_scans', 205.5);
SELECT grant_bonus(:'ben', 'billing_pictures', 2, NULL, 'A') IS NOT NULL AS granted;
SELECT used, bonus_used, overage, cost FROM usage_tracking WHERE user_id = :'ben' AND metric = 'billing_scans' AND period = 'month';
INSERT INTO topup_prices (plan, metric, unit_price) VALUES ('billing_plan', 'billing_scans', 48);
SELECT amount, price, total_available FROM purchase_topup(:'ben', 'billing_scans', 100);
SELECT used, bonus_used, overage, cost FROM usage_tracking WHERE user_id = :'ben' AND metric = 'billing_scans' AND period = 'month';
SELECT amount, used_amount FROM user_bonuses WHERE user_id = :'ben' AND metric = 'billing_scans' ORDER BY amount;
SELECT kind, amount, bonus_used, overage, cost FROM usage_events WHERE user_id = :'ben' AND metric = 'billing_scans' ORDER BY kind, bonus_used;
SELECT action, attempted_amount, detail -> 'new' -> 'repaid' AS repaid FROM quota_audit_log WHERE user_id = :'ben' AND metric = 'billing_scans' AND action <> 'consume' ORDER BY action;
-- unless the plan says otherwise
UPDATE plan_limits SET repay_overage = false WHERE plan = 'billing_plan' AND metric = 'billing_scans';
SELECT allowed, reason, overage, cost FROM check_and_consume_quota(:'dan', 'billing_scans', 201);
SELECT amount, price, total_available FROM purchase_topup(:'dan', 'billing_scans', 100);
SELECT used, bonus_used, overage, cost FROM usage_tracking WHERE user_id = :'dan' AND metric = 'billing_scans' AND period = 'month';

-- bn_aura -------------------------------------------------------------------------------------

BEGIN;
SELECT load_preset('bn_aura') > 0 AS loaded;
SELECT assign_plan(:'ann', 'professional');
SELECT remaining FROM check_quota(:'ann', 'ai_scans');
SELECT amount, unit_price, price, currency, total_available, already_processed FROM purchase_topup(:'ann', 'ai_scans', 100);
-- the 201st scan costs 60; what is bought after it pays for it
SELECT assign_plan(:'ben', 'professional');
SELECT allowed, reason, overage, cost, remaining FROM check_and_consume_quota(:'ben', 'ai_scans', 200);
SELECT overage, cost FROM check_quota(:'ben', 'ai_scans');
SELECT allowed, reason, overage, cost, remaining FROM check_and_consume_quota(:'ben', 'ai_scans');
SELECT amount, price, total_available FROM purchase_topup(:'ben', 'ai_scans', 100);
SELECT used, bonus_used, overage, cost FROM usage_tracking WHERE user_id = :'ben' AND metric = 'ai_scans';
-- 500 quick scans use exactly 100
SELECT bool_and((o).allowed) AS allowed, trim_scale(min((o).remaining)) AS remaining FROM (SELECT check_and_consume_quota(:'ann', 'ai_scans', 0.2) AS o FROM generate_series(1, 500) OFFSET 0) AS s;
INSERT INTO subscriptions (user_id, plan) SELECT md5('billing ' || plan)::uuid, plan FROM plans WHERE plan IN ('starter', 'professional', 'premium', 'enterprise');
SELECT t.* FROM plans p, topup_price(md5('billing ' || p.plan)::uuid, 'ai_scans', 1) AS t WHERE p.plan IN ('starter', 'professional', 'premium', 'enterprise')
	ORDER BY t.price DESC;
ROLLBACK;

-- What cannot be --------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.sqlstate_of(p_call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SELECT * FROM quota.' || p_call USING md5('billing ann')::uuid;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
CREATE TEMP VIEW written AS SELECT 'bonuses' AS what, b::text AS stored FROM user_bonuses b UNION ALL SELECT 'topups', t::text FROM topups t
	UNION ALL SELECT 'prices', t::text FROM topup_prices t UNION ALL SELECT 'log', l::text FROM quota_audit_log l UNION ALL SELECT 'accounts', a::text FROM usage_tracking a;
CREATE TEMP TABLE before AS TABLE written;
SELECT call, pg_temp.sqlstate_of(call) AS sqlstate FROM unnest(ARRAY[
	$$grant_bonus($1, 'billing_calls', 1, p_giftable => NULL)$$,
	$$grant_bonus($1, 'billing_calls', 1, p_unit_cost => -1)$$, $$grant_bonus($1, 'billing_calls', 1, p_unit_cost => 'NaN')$$,
	$$grant_bonus($1, 'billing_calls', 1, p_unit_cost => 'Infinity')$$, $$grant_bonus($1, 'billing_calls', 1, p_unit_cost => 1e-13)$$,
	$$grant_bonus($1, 'billing_calls', 1, p_currency => '')$$, $$grant_bonus($1, 'billing_calls', 1, p_currency => 'eur')$$, $$grant_bonus($1, 'billing_calls', 1, p_currency => E'EUR\n')$$,
	$$grant_bonus($1, 'billing_calls', 1, p_transaction_id => '')$$, $$grant_bonus($1, 'billing_calls', 1, p_transaction_id => repeat('x', 256))$$,
	$$grant_bonus($1, 'billing_calls', 1, p_source => 'gift')$$, $$grant_bonus($1, 'billing_calls', 1, p_source => 'rollover')$$, $$grant_bonus($1, 'billing_calls', 1, p_source => 'refill')$$,
	$$void_bonus(NULL)$$, $$void_bonus($1)$$, $$void_bonus('not a uuid')$$,
	$$topup_price(NULL, 'billing_calls', 5)$$, $$topup_price($1, NULL, 5)$$, $$topup_price($1, 'billing_cals', 5)$$, $$topup_price($1, 'billing_calls', NULL)$$,
	$$topup_price($1, 'billing_calls', 0)$$, $$topup_price($1, 'billing_unlisted', 5)$$,
	$$purchase_topup(NULL, 'billing_calls', 5)$$, $$purchase_topup($1, NULL, 5)$$, $$purchase_topup($1, '', 5)$$, $$purchase_topup($1, 'billing_cals', 5)$$,
	$$purchase_topup($1, 'billing_calls', NULL)$$, $$purchase_topup($1, 'billing_calls', 0)$$, $$purchase_topup($1, 'billing_calls', -5)$$,
	$$purchase_topup($1, 'billing_calls', 'NaN')$$, $$purchase_topup($1, 'billing_calls', 'Infinity')$$, $$purchase_topup($1, 'billing_calls', 5.0000001)$$, $$purchase_topup($1, 'billing_calls', 1e18)$$,
	$$purchase_topup($1, 'billing_calls', 5, '')$$, $$purchase_topup($1, 'billing_calls', 5, repeat('x', 256))$$,
	$$purchase_topup($1, 'billing_calls', 5, NULL, '2026-03-10 12:00+00')$$, $$purchase_topup($1, 'billing_calls', 5, NULL, 'infinity')$$,
	$$purchase_topup($1, 'billing_calls', 4)$$, $$purchase_topup($1, 'billing_unlisted', 5)$$, $$purchase_topup(md5('billing nobody')::uuid, 'billing_calls', 5)$$]) AS call;
-- nor in the price list
INSERT INTO topup_prices VALUES ('billing_none', 'billing_hard', 0, 1, NULL, NULL);
INSERT INTO topup_prices VALUES ('billing_plan', 'billing_none', 0, 1, NULL, NULL);
INSERT INTO topup_prices VALUES ('billing_plan', 'billing_hard', -1, 1, NULL, NULL);
INSERT INTO topup_prices VALUES ('billing_plan', 'billing_hard', 0, -1, NULL, NULL);
INSERT INTO topup_prices VALUES ('billing_plan', 'billing_hard', 0, NULL, 1, NULL);
INSERT INTO topup_prices VALUES ('billing_plan', 'billing_hard', 0, NULL, -0.1, NULL);
INSERT INTO topup_prices VALUES ('billing_plan', 'billing_hard', 0, NULL, 'NaN', NULL);
INSERT INTO topup_prices VALUES ('billing_plan', 'billing_hard', 0, NULL, NULL, NULL);
INSERT INTO topup_prices VALUES ('billing_plan', 'billing_hard', 0, 1, 0.2, NULL);
INSERT INTO topup_prices VALUES ('billing_plan', 'billing_hard', 0, NULL, 0.2, 'EUR');
INSERT INTO topup_prices VALUES ('billing_plan', 'billing_hard', 0, 1, NULL, 'euro');
BEGIN READ ONLY;
SELECT * FROM purchase_topup(:'ann', 'billing_calls', 5);
ROLLBACK;
BEGIN READ ONLY;
SELECT void_bonus(:'bonus');
ROLLBACK;
SELECT * FROM (TABLE written EXCEPT TABLE before) AS added UNION ALL SELECT * FROM (TABLE before EXCEPT TABLE written) AS lost;

-- A trigger that suppresses a row: an error, and nothing of the act stays
CREATE FUNCTION public.billing_suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION pg_temp.suppressed(p_event text, p_table text, p_call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	v_answer	text;
BEGIN
	EXECUTE format('CREATE TRIGGER suppress BEFORE %s ON quota.%I FOR EACH ROW EXECUTE FUNCTION public.billing_suppress()', p_event, p_table);
	v_answer := pg_temp.sqlstate_of(p_call);
	EXECUTE format('DROP TRIGGER suppress ON quota.%I', p_table);
	RETURN v_answer;
END
$$;
SELECT event, t AS "table", split_part(call, '(', 1) AS act, pg_temp.suppressed(event, t, call) FROM (VALUES
	('INSERT', 'topups', $$purchase_topup($1, 'billing_calls', 5)$$), ('INSERT', 'user_bonuses', $$purchase_topup($1, 'billing_calls', 5, 'new')$$),
	('INSERT', 'quota_audit_log', $$purchase_topup($1, 'billing_calls', 5)$$), ('INSERT', 'user_bonuses', $$grant_bonus($1, 'billing_calls', 5)$$),
	('UPDATE', 'user_bonuses', $$void_bonus((SELECT id FROM quota.user_bonuses WHERE user_id = $1 AND reason = 'A'))$$)) AS v (event, t, call);
SELECT * FROM (TABLE written EXCEPT TABLE before) AS added UNION ALL SELECT * FROM (TABLE before EXCEPT TABLE written) AS lost;
DROP FUNCTION public.billing_suppress();

-- Who may -----------------------------------------------------------------------------------------

INSERT INTO user_bonuses (id, user_id, metric, amount) VALUES ('00000000-0000-4000-8000-0000000b1111', :'ben', 'billing_calls', 1);
CREATE ROLE regress_billing_none;
CREATE ROLE regress_billing_app;
CREATE ROLE regress_billing_monitor;
CREATE ROLE regress_billing_admin;
SELECT grant_access('regress_billing_app', 'app'), grant_access('regress_billing_monitor', 'monitor'), grant_access('regress_billing_admin', 'admin');
CREATE FUNCTION pg_temp.as_all(p_statement text, OUT nobody text, OUT app text, OUT monitor text, OUT admin text) LANGUAGE plpgsql AS $$
BEGIN
	SET LOCAL ROLE regress_billing_none;
	nobody := pg_temp.sqlstate_of(p_statement);
	SET LOCAL ROLE regress_billing_app;
	app := pg_temp.sqlstate_of(p_statement);
	SET LOCAL ROLE regress_billing_monitor;
	monitor := pg_temp.sqlstate_of(p_statement);
	SET LOCAL ROLE regress_billing_admin;
	admin := pg_temp.sqlstate_of(p_statement);
	RESET ROLE;
END
$$;
BEGIN;
SELECT call, s.* FROM unnest(ARRAY[
		$$grant_bonus($1, 'billing_calls', 1, p_giftable => true)$$, $$purchase_topup($1, 'billing_calls', 5)$$, $$topup_price($1, 'billing_calls', 5)$$,
		$$void_bonus('00000000-0000-4000-8000-0000000b1111')$$, $$add_bonus(NULL)$$, $$checked_transaction('a')$$, $$topups$$, $$topup_prices$$]) AS call,
	LATERAL pg_temp.as_all(call) AS s;
ROLLBACK;
SELECT pg_temp.as_all('topups; INSERT INTO quota.topup_prices (plan, metric, unit_price) SELECT ''billing_big'', ''billing_calls'', 1');
SET ROLE regress_billing_admin;
INSERT INTO quota.topup_prices (plan, metric, min_amount, unit_price) VALUES ('billing_big', 'billing_calls', 5, 1);
UPDATE quota.topup_prices SET unit_price = 2 WHERE plan = 'billing_big' AND metric = 'billing_calls';
DELETE FROM quota.topup_prices WHERE plan = 'billing_big' AND metric = 'billing_calls';
UPDATE quota.topups SET price = 0;
RESET ROLE;
DROP OWNED BY regress_billing_none, regress_billing_app, regress_billing_monitor, regress_billing_admin;
DROP ROLE regress_billing_none, regress_billing_app, regress_billing_monitor, regress_billing_admin;

-- no counter moved but by consuming
SELECT count(*) FROM verify_ledger() AS v WHERE v.metric LIKE 'billing%';

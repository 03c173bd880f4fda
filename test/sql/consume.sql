-- What a call answers and leaves behind: grants, denials, the present state.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('consume_calls', 'counter'),
	('consume_calls_2', 'counter'),
	('consume_closed', 'counter'),
	('consume_free', 'counter'),
	('consume_unlisted', 'counter'),
	('consume_seats', 'gauge'),
	('consume_export', 'feature');
INSERT INTO metric_aliases VALUES
	('consume_requests', 'consume_calls'),
	-- a metric goes before an alias of its name
	('consume_free', 'consume_closed');
INSERT INTO plans (plan) VALUES ('consume_basic'), ('consume_default'), ('consume_empty');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('consume_basic', 'consume_calls', 'month', 10),
	('consume_basic', 'consume_calls_2', 'month', 1000),
	('consume_basic', 'consume_closed', 'month', 0),
	('consume_basic', 'consume_free', 'month', NULL),
	('consume_basic', 'consume_seats', 'month', 3),
	('consume_basic', 'consume_export', 'lifetime', NULL),
	('consume_default', 'consume_calls', 'day', 2);

SELECT md5('consume ' || 'ann')::uuid AS ann, md5('consume ' || 'ben')::uuid AS ben,
	md5('consume ' || 'cat')::uuid AS cat, md5('consume ' || 'dan')::uuid AS dan,
	md5('consume ' || 'eve')::uuid AS eve, md5('consume ' || 'fay')::uuid AS fay,
	md5('consume ' || 'nobody')::uuid AS nobody \gset
INSERT INTO subscriptions (user_id, plan, anchor) VALUES
	(:'ann', 'consume_basic', '2026-01-15 00:00+00'), (:'ben', 'consume_basic', '2026-01-15 00:00+00'),
	(:'cat', 'consume_basic', '2026-01-15 00:00+00'), (:'dan', 'consume_basic', '2026-01-15 00:00+00'),
	(:'eve', 'consume_empty', '2026-01-15 00:00+00'), (:'fay', 'consume_basic', '2026-01-15 00:00+00');

-- A grant, every column of it -------------------------------------------------

SELECT allowed, remaining, limit_amount, bonus_used, already_processed, reason, metric, period, used,
	bonus_remaining, overage, cost, period_start, resets_at, justify_hours(retry_after) AS retry_after, event_id IS NOT NULL AS has_event
	FROM check_and_consume_quota(:'ann', 'consume_calls', 4, NULL, '{"from": "test"}')
\gx
-- the amount is 1 where none is given; names work for arguments
SELECT allowed, remaining, used, reason FROM check_and_consume_quota(:'ann', 'consume_calls');
SELECT allowed, remaining, used, reason
	FROM check_and_consume_quota(p_amount := 2, p_metric := 'consume_calls', p_user_id := :'ann');

-- what it wrote
SELECT metric, period, period_start, period_end, used, bonus_used, overage, held, anchor
	FROM usage_tracking WHERE user_id = :'ann';
SELECT metric, kind, amount, bonus_used, period, rate_periods, key_hash, outcome, metadata, created_at
	FROM usage_events WHERE user_id = :'ann' ORDER BY amount;
SELECT metric, attempted_amount, success, reason, plan_limit, current_usage, remaining, period, action,
	waited, actor, detail, created_at
	FROM quota_audit_log WHERE user_id = :'ann' ORDER BY current_usage;
-- each event is named by one line of the log
SELECT count(*) AS events, count(a.event_id) AS logged
	FROM usage_events e LEFT JOIN quota_audit_log a ON a.event_id = e.id WHERE e.user_id = :'ann';

-- A denial, every column of it -------------------------------------------------

SELECT allowed, remaining, limit_amount, bonus_used, already_processed, reason, metric, period, used,
	bonus_remaining, overage, cost, period_start, resets_at, justify_hours(retry_after) AS retry_after, event_id
	FROM check_and_consume_quota(:'ann', 'consume_calls', 4)
\gx
-- more than a whole period can ever hold: waiting does not help
SELECT allowed, reason, remaining, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'ann', 'consume_calls', 11);
-- what is left can be had to the last unit, and not one unit more
SELECT allowed, remaining, used, reason, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'ann', 'consume_calls', 3);
SELECT allowed, remaining, used, reason, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'ann', 'consume_calls');
SELECT allowed, remaining, used, reason FROM check_and_consume_quota(:'ann', 'consume_calls', 0.000001);
-- a denial is a line of the log and nothing else
SELECT attempted_amount, success, reason, plan_limit, current_usage, remaining, period, action, event_id
	FROM quota_audit_log WHERE user_id = :'ann' AND NOT success ORDER BY attempted_amount DESC;
SELECT used, (SELECT sum(amount) FROM usage_events WHERE user_id = :'ann') AS events
	FROM usage_tracking WHERE user_id = :'ann';

-- A first call that is denied opens no account ----------------------------------

SELECT allowed, remaining, used, reason, period_start FROM check_and_consume_quota(:'ben', 'consume_calls', 11);
SELECT count(*) FROM usage_tracking WHERE user_id = :'ben';

-- Unlimited is NULL, counted all the same ----------------------------------------

SELECT allowed, remaining, limit_amount, used, reason, period
	FROM check_and_consume_quota(:'ben', 'consume_free', 1000000);
SELECT allowed, remaining, limit_amount, used, reason, period
	FROM check_and_consume_quota(:'ben', 'consume_free', 999999999999999999);
SELECT period, used FROM usage_tracking WHERE user_id = :'ben';
SELECT plan_limit, remaining, count(*) FROM quota_audit_log
	WHERE user_id = :'ben' AND metric = 'consume_free' GROUP BY 1, 2;

-- Nothing of it in the plan: three ways ------------------------------------------

-- a limit of 0
SELECT allowed, remaining, limit_amount, used, reason, metric, period, bonus_remaining, period_start, resets_at, justify_hours(retry_after) AS retry_after
	FROM check_and_consume_quota(:'ann', 'consume_closed')
\gx
-- a metric that the plan does not list
SELECT allowed, remaining, limit_amount, used, reason, metric, period, bonus_remaining, period_start, resets_at, justify_hours(retry_after) AS retry_after
	FROM check_and_consume_quota(:'ann', 'consume_unlisted')
\gx
-- a subject that has no plan; a plan that lists nothing
SELECT allowed, remaining, limit_amount, reason, period FROM check_and_consume_quota(:'nobody', 'consume_calls');
SELECT allowed, remaining, limit_amount, reason, period FROM check_and_consume_quota(:'eve', 'consume_calls');
SELECT metric, success, reason, plan_limit, current_usage, remaining, period FROM quota_audit_log
	WHERE user_id IN (:'ann', :'nobody', :'eve') AND reason = 'not_in_plan' ORDER BY 1, 7;

-- The default plan ------------------------------------------------------------------

SET quota.default_plan = 'consume_default';
SELECT allowed, remaining, limit_amount, reason, period, period_start, resets_at
	FROM check_and_consume_quota(:'nobody', 'consume_calls');
SELECT allowed, reason FROM check_and_consume_quota(:'nobody', 'consume_free');
-- a subscription goes before it, even one to a plan that lists nothing
SELECT allowed, reason FROM check_and_consume_quota(:'eve', 'consume_calls');
SELECT allowed, limit_amount FROM check_quota(:'cat', 'consume_calls');
SET quota.default_plan = 'consume_misspelt';
SELECT check_and_consume_quota(:'nobody', 'consume_calls');
SELECT check_quota(:'nobody', 'consume_calls');
SELECT allowed, limit_amount FROM check_quota(:'cat', 'consume_calls');
RESET quota.default_plan;
SELECT allowed, reason FROM check_and_consume_quota(:'nobody', 'consume_calls');

-- Aliases -----------------------------------------------------------------------------

SELECT allowed, used, metric FROM check_and_consume_quota(:'cat', 'consume_requests', 2);
SELECT allowed, used, metric FROM check_and_consume_quota(:'cat', 'consume_calls', 2);
SELECT allowed, used, metric FROM check_quota(:'cat', 'consume_requests', 2);
SELECT allowed, reason, metric, remaining FROM check_and_consume_quota(:'cat', 'consume_free', 5);
SELECT metric, used FROM usage_tracking WHERE user_id = :'cat' ORDER BY metric;
SELECT metric, count(*) FROM usage_events WHERE user_id = :'cat' GROUP BY metric ORDER BY metric;
SELECT metric, count(*) FROM quota_audit_log WHERE user_id = :'cat' GROUP BY metric ORDER BY metric;
-- names are compared byte by byte
SELECT check_and_consume_quota(:'cat', 'Consume_Calls');
SELECT check_and_consume_quota(:'cat', 'consume_calls ');

-- Several calls in one statement see each other ------------------------------------------

SELECT a.allowed AS first, a.remaining AS left_1, b.allowed AS second, b.remaining AS left_2
	FROM check_and_consume_quota(:'dan', 'consume_calls', 6) AS a,
		LATERAL (SELECT * FROM check_and_consume_quota(:'dan', 'consume_calls', 6 + 0 * a.remaining)) AS b;
SELECT count(*) FILTER (WHERE (o).allowed) AS granted, count(*) FILTER (WHERE NOT (o).allowed) AS denied
	FROM (SELECT check_and_consume_quota(:'dan', 'consume_calls') AS o FROM generate_series(1, 10) OFFSET 0) AS s;
SELECT used, (SELECT sum(amount) FROM usage_events WHERE user_id = :'dan') AS events
	FROM usage_tracking WHERE user_id = :'dan';

-- 0.2 stays 0.2 -----------------------------------------------------------------------------

SELECT count(*) FILTER (WHERE (o).allowed) AS granted, min((o).remaining) = 800 AS left_is_800
	FROM (SELECT check_and_consume_quota(:'dan', 'consume_calls_2', 0.2) AS o FROM generate_series(1, 1000) OFFSET 0) AS s;
SELECT trim_scale(used) AS used FROM usage_tracking WHERE user_id = :'dan' AND metric = 'consume_calls_2';
SELECT trim_scale(sum(amount)) AS used, count(*) FROM usage_events WHERE user_id = :'dan' AND metric = 'consume_calls_2';
SELECT allowed, trim_scale(remaining) AS remaining, trim_scale(used) AS used
	FROM check_and_consume_quota(:'dan', 'consume_calls_2', 799.999999);
SELECT allowed, trim_scale(remaining) AS remaining FROM check_and_consume_quota(:'dan', 'consume_calls_2', 0.000002);
SELECT allowed, trim_scale(remaining) AS remaining FROM check_and_consume_quota(:'dan', 'consume_calls_2', 0.000001);

-- A gauge is a level: its account never starts again --------------------------------------

SELECT allowed, remaining, period, period_start, resets_at FROM check_and_consume_quota(:'ann', 'consume_seats', 2);
SELECT allowed, reason, remaining, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'ann', 'consume_seats', 2);
SET quota.test_clock = '2027-08-10 12:00:00+00';
SELECT allowed, reason, remaining, used, period_start, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'ann', 'consume_seats', 2);
SELECT allowed, reason, remaining, used, period_start, resets_at FROM check_and_consume_quota(:'ann', 'consume_seats', 1);
SELECT period, period_start, period_end, used FROM usage_tracking WHERE user_id = :'ann' AND metric = 'consume_seats';
SELECT count(*) FROM usage_history WHERE user_id = :'ann';
-- while the counter has
SELECT allowed, remaining, used, period_start FROM check_and_consume_quota(:'ann', 'consume_calls', 2);
SELECT metric, period_start, period_end, used, limit_amount, closed_at FROM usage_history WHERE user_id = :'ann';
SET quota.test_clock = '2026-03-10 12:00:00+00';

-- A feature is in the plan or is not -------------------------------------------------------

SELECT allowed, remaining, limit_amount, reason, period, resets_at FROM check_and_consume_quota(:'ben', 'consume_export');
SELECT allowed, remaining, limit_amount, reason, period, resets_at FROM check_and_consume_quota(:'eve', 'consume_export');

-- check_quota tells the present state, and writes nothing -----------------------------------

SELECT count(*) AS events FROM usage_events \gset before_
SELECT count(*) AS lines FROM quota_audit_log \gset before_
SELECT allowed, remaining, limit_amount, bonus_used, already_processed, reason, metric, period, used,
	bonus_remaining, overage, cost, period_start, resets_at, justify_hours(retry_after) AS retry_after, event_id
	FROM check_quota(:'fay', 'consume_calls', 4)
\gx
SELECT count(*) FROM usage_tracking WHERE user_id = :'fay';
SELECT allowed, used FROM check_and_consume_quota(:'fay', 'consume_calls', 7);
SELECT allowed, remaining, used, reason FROM check_quota(:'fay', 'consume_calls');
SELECT allowed, remaining, used, reason FROM check_quota(:'fay', 'consume_calls', 3);
SELECT allowed, remaining, used, reason, justify_hours(retry_after) AS retry_after FROM check_quota(:'fay', 'consume_calls', 4);
SELECT allowed, remaining, used, reason, justify_hours(retry_after) AS retry_after FROM check_quota(:'fay', 'consume_closed', 4);
SELECT allowed, remaining, used, limit_amount FROM check_quota(:'fay', 'consume_free', 4);
-- a period that is over is told as the one that follows, without closing it
SET quota.test_clock = '2026-04-01 00:00:00+00';
SELECT allowed, remaining, used, period_start, resets_at FROM check_quota(:'fay', 'consume_calls', 10);
SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT period_start, used FROM usage_tracking WHERE user_id = :'fay';
SELECT count(*) FROM usage_history WHERE user_id = :'fay';
SELECT count(*) - :before_events AS new_events FROM usage_events;
SELECT count(*) - :before_lines AS new_lines FROM quota_audit_log;

-- require_quota answers the same, or raises ---------------------------------------------------

SELECT allowed, remaining, used, reason FROM require_quota(:'fay', 'consume_calls', 2);
SELECT require_quota(:'fay', 'consume_calls', 2);
SELECT require_quota(:'fay', 'consume_closed');
SELECT require_quota(:'fay', 'consume_unlisted');
SELECT allowed, remaining, used, reason FROM require_quota(p_user_id := :'fay', p_metric := 'consume_calls', p_amount := 1,
	p_idempotency_key := 'k', p_metadata := '{}');
SELECT allowed, already_processed, remaining, used, reason FROM require_quota(:'fay', 'consume_calls', 1, 'k');
SELECT require_quota(:'fay', 'consume_calls', 2, 'k');
-- what it raises takes its line of the log along
SELECT attempted_amount, success, reason FROM quota_audit_log WHERE user_id = :'fay' ORDER BY attempted_amount DESC, reason;

SELECT count(*) FROM verify_ledger() AS v WHERE v.metric LIKE 'consume%';

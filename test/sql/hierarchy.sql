-- Parents: every level that has a limit is charged, all or nothing.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('hierarchy_calls', 'counter'), ('hierarchy_days', 'counter'), ('hierarchy_only', 'counter'), ('hierarchy_soft', 'counter'),
	('hierarchy_closed', 'counter'), ('hierarchy_seats', 'gauge');
INSERT INTO plans (plan) VALUES ('hierarchy_member'), ('hierarchy_team'), ('hierarchy_org');
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES
	('hierarchy_member', 'hierarchy_calls', 'month', 10, 'hard', NULL),
	('hierarchy_team', 'hierarchy_calls', 'month', 15, 'hard', NULL),
	('hierarchy_org', 'hierarchy_calls', 'month', 100, 'hard', NULL),
	('hierarchy_member', 'hierarchy_days', 'day', 5, 'hard', NULL),
	('hierarchy_team', 'hierarchy_days', 'month', 8, 'hard', NULL),
	('hierarchy_org', 'hierarchy_only', 'month', 20, 'hard', NULL),
	('hierarchy_member', 'hierarchy_soft', 'month', 10, 'hard', NULL),
	('hierarchy_team', 'hierarchy_soft', 'month', 3, 'soft', 2),
	('hierarchy_member', 'hierarchy_closed', 'month', 10, 'hard', NULL),
	('hierarchy_team', 'hierarchy_closed', 'month', 0, 'hard', NULL),
	('hierarchy_member', 'hierarchy_seats', 'lifetime', 5, 'hard', NULL),
	('hierarchy_team', 'hierarchy_seats', 'lifetime', 10, 'hard', NULL);
SELECT md5('hierarchy org')::uuid AS org, md5('hierarchy team')::uuid AS team, md5('hierarchy team2')::uuid AS team2, md5('hierarchy team3')::uuid AS team3,
	md5('hierarchy ann')::uuid AS ann, md5('hierarchy ben')::uuid AS ben, md5('hierarchy cat')::uuid AS cat, md5('hierarchy dan')::uuid AS dan,
	md5('hierarchy eve')::uuid AS eve, md5('hierarchy fay')::uuid AS fay, md5('hierarchy gus')::uuid AS gus, md5('hierarchy hal')::uuid AS hal,
	md5('hierarchy ida')::uuid AS ida, md5('hierarchy joe')::uuid AS joe, md5('hierarchy ghost')::uuid AS ghost \gset
INSERT INTO subscriptions (user_id, plan, parent) VALUES
	(:'org', 'hierarchy_org', NULL), (:'team', 'hierarchy_team', :'org'), (:'team2', 'hierarchy_team', NULL), (:'team3', 'hierarchy_team', NULL),
	(:'ann', 'hierarchy_member', :'team'), (:'ben', 'hierarchy_member', :'team'), (:'cat', NULL, :'team'),
	(:'dan', 'hierarchy_member', NULL), (:'eve', NULL, NULL), (:'fay', 'hierarchy_member', :'team2'), (:'gus', 'hierarchy_member', :'team2'),
	(:'hal', 'hierarchy_member', :'team3'), (:'ida', 'hierarchy_member', :'team3'), (:'joe', 'hierarchy_member', :'ghost');

CREATE FUNCTION pg_temp.name_of(p_user_id uuid) RETURNS text LANGUAGE sql AS $$
	SELECT n FROM unnest(ARRAY['org', 'team', 'team2', 'team3', 'ann', 'ben', 'cat', 'dan', 'eve', 'fay', 'gus', 'hal', 'ida', 'joe', 'ghost']) AS n
		WHERE md5('hierarchy ' || n)::uuid = p_user_id
$$;
CREATE FUNCTION pg_temp.accounts(p_metric text, OUT name text, OUT period text, OUT used numeric, OUT bonus_used numeric, OUT overage numeric, OUT cost numeric,
	OUT held numeric) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT pg_temp.name_of(t.user_id), t.period, trim_scale(t.used), trim_scale(t.bonus_used), trim_scale(t.overage), trim_scale(t.cost), trim_scale(t.held)
		FROM quota.usage_tracking t WHERE t.metric = p_metric AND pg_temp.name_of(t.user_id) IS NOT NULL ORDER BY 1, 2
$$;
-- the event of the subject that was named first, then those of its parents
CREATE FUNCTION pg_temp.events(p_metric text, OUT name text, OUT kind text, OUT amount numeric, OUT bonus_used numeric, OUT overage numeric,
	OUT held numeric, OUT of text) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT pg_temp.name_of(e.user_id), e.kind, trim_scale(e.amount), trim_scale(e.bonus_used), trim_scale(e.overage), trim_scale(e.held),
			CASE WHEN e.kind IN ('consume', 'reserve', 'release', 'set_gauge') THEN pg_temp.name_of(o.user_id) END
		FROM quota.usage_events e LEFT JOIN quota.usage_events o ON o.id = e.refers_to
		WHERE e.metric = p_metric ORDER BY e.created_at, e.kind, e.refers_to IS NOT NULL, 1, e.amount
$$;
\set answer 'allowed, reason, trim_scale(granted) AS granted, pg_temp.name_of(binding_user_id) AS binding, limit_amount, period, trim_scale(used) AS used, trim_scale(remaining) AS remaining'

-- Every level is charged; the one with least remaining binds ------------------------------------

SELECT allowed, remaining, limit_amount, bonus_used, already_processed, reason, metric, period, used, bonus_remaining, overage, cost,
	period_start, resets_at, retry_after, event_id IS NOT NULL AS has_event, pg_temp.name_of(binding_user_id) AS binding, granted, reservation_id, shortfall
	FROM check_and_consume_quota(:'ann', 'hierarchy_calls', 4, NULL, '{"from": "ann"}')
\gx
SELECT * FROM pg_temp.accounts('hierarchy_calls');
SELECT * FROM pg_temp.events('hierarchy_calls');
-- one line of the log, of the subject that was named
SELECT pg_temp.name_of(user_id) AS name, attempted_amount, success, reason, plan_limit, current_usage, remaining, action FROM quota_audit_log WHERE metric = 'hierarchy_calls';
SET quota.test_clock = '2026-03-10 12:01:00+00';
-- 1 is left of ben's own, 2 of the team's
SELECT :answer FROM check_and_consume_quota(:'ben', 'hierarchy_calls', 9);
-- ann has 6, the team 2: the team denies, and nobody is charged
SELECT :answer, justify_hours(retry_after) AS retry_after, event_id FROM check_and_consume_quota(:'ann', 'hierarchy_calls', 4);
SELECT :answer FROM check_quota(:'ann', 'hierarchy_calls', 4);
SELECT :answer FROM check_quota(:'ann', 'hierarchy_calls', 2);
SELECT * FROM pg_temp.accounts('hierarchy_calls');
SELECT :answer FROM check_and_consume_quota(:'ann', 'hierarchy_calls', 2);
-- of two that deny for equally long the nearest is told
SELECT :answer FROM check_and_consume_quota(:'ann', 'hierarchy_calls', 5);
SELECT :answer FROM check_and_consume_quota(:'ann', 'hierarchy_calls', 1);
SELECT :answer FROM check_and_consume_quota(:'cat', 'hierarchy_calls', 1);
SELECT * FROM pg_temp.accounts('hierarchy_calls');
-- others are not concerned
SELECT :answer FROM check_and_consume_quota(:'dan', 'hierarchy_calls', 10);
SELECT :answer FROM check_and_consume_quota(:'org', 'hierarchy_calls', 1);
-- the limits of all levels can be seen
SELECT metric, pg_temp.name_of(limit_user_id) AS of, plan, limit_amount, used, remaining FROM get_user_quota_status(:'ann') WHERE metric IN ('hierarchy_calls', 'hierarchy_only') ORDER BY 1, 4;

-- Levels without limits are skipped -----------------------------------------------------------------

SELECT :answer, event_id AS e FROM check_and_consume_quota(:'ann', 'hierarchy_only', 7) \gset got_
\echo :got_allowed :got_reason :got_granted :got_binding :got_limit_amount :got_used :got_remaining
SELECT :answer FROM check_and_consume_quota(:'cat', 'hierarchy_only', 1);
SELECT * FROM pg_temp.accounts('hierarchy_only');
SELECT name, kind, amount, of FROM pg_temp.events('hierarchy_only') ORDER BY amount;
-- what was charged to the parent alone can be given back, too
SELECT :answer FROM refund_quota(:'got_e', 3);
SELECT * FROM pg_temp.accounts('hierarchy_only');
-- the key belongs to the subject that was named, not to the one that was charged
SELECT :answer, already_processed FROM check_and_consume_quota(:'cat', 'hierarchy_only', 2, 'key');
SELECT :answer, already_processed FROM check_and_consume_quota(:'cat', 'hierarchy_only', 2, 'key');
SELECT :answer, already_processed FROM check_and_consume_quota(:'ann', 'hierarchy_only', 2, 'key');
SELECT allowed, reason FROM check_and_consume_quota(:'ann', 'hierarchy_only', 1, 'key');
-- nobody has a limit
SELECT :answer FROM check_and_consume_quota(:'dan', 'hierarchy_only', 1);
SELECT :answer FROM check_and_consume_quota(:'eve', 'hierarchy_calls', 1);
-- a limit of 0 is one
SELECT :answer FROM check_and_consume_quota(:'ann', 'hierarchy_closed', 1);
SELECT :answer FROM check_and_consume_quota(:'dan', 'hierarchy_closed', 1);
SELECT pg_temp.name_of(user_id) AS name, metric, reason, count(*) FROM quota_audit_log
	WHERE metric IN ('hierarchy_only', 'hierarchy_closed') GROUP BY 1, 2, 3 ORDER BY 2, 1, 3;

-- Bonuses: each level has its own ------------------------------------------------------------------------

SELECT :answer FROM check_and_consume_quota(:'fay', 'hierarchy_calls', 10);
SELECT grant_bonus(:'fay', 'hierarchy_calls', 3, NULL, 'of fay') IS NOT NULL AS granted;
SELECT :answer, bonus_used, bonus_remaining FROM check_and_consume_quota(:'fay', 'hierarchy_calls', 3);
-- the team has 2 and a bonus of 4: gus takes 5
SELECT grant_bonus(:'team2', 'hierarchy_calls', 4, NULL, 'of the team') IS NOT NULL AS granted;
SELECT :answer, bonus_used, bonus_remaining, event_id AS e FROM check_and_consume_quota(:'gus', 'hierarchy_calls', 5) \gset gus_
\echo :gus_allowed :gus_reason :gus_granted :gus_binding :gus_limit_amount :gus_used :gus_remaining :gus_bonus_used :gus_bonus_remaining
-- 1 of both their bonuses: what the levels took together is told
SELECT grant_bonus(:'fay', 'hierarchy_calls', 1, NULL, 'of fay, too') IS NOT NULL AS granted;
SELECT :answer, bonus_used, bonus_remaining FROM check_quota(:'fay', 'hierarchy_calls', 1);
SELECT :answer, bonus_used, bonus_remaining, event_id AS e FROM check_and_consume_quota(:'fay', 'hierarchy_calls', 1) \gset fay_
\echo :fay_allowed :fay_reason :fay_granted :fay_binding :fay_limit_amount :fay_used :fay_remaining :fay_bonus_used :fay_bonus_remaining
SELECT * FROM pg_temp.accounts('hierarchy_calls') WHERE name IN ('fay', 'gus', 'team2');

-- Refund: on all levels, each from its own last source --------------------------------------------------------

SELECT id AS level_event FROM usage_events WHERE refers_to = :'fay_e' \gset
SELECT refund_quota(:'level_event');
SELECT :answer, bonus_used FROM refund_quota(:'fay_e');
SELECT refund_quota(:'fay_e');
SELECT refund_quota(:'level_event', 0.5);
SELECT :answer, bonus_used FROM refund_quota(:'gus_e', 2);
SELECT :answer, bonus_used FROM refund_quota(:'gus_e', 2);
SELECT * FROM pg_temp.accounts('hierarchy_calls') WHERE name IN ('fay', 'gus', 'team2');
SELECT reason, amount, used_amount FROM user_bonuses WHERE user_id IN (:'fay', :'team2') ORDER BY reason;

-- A soft limit above a hard one --------------------------------------------------------------------------------------

SELECT :answer, overage, trim_scale(cost) AS cost FROM check_quota(:'fay', 'hierarchy_soft', 5);
SELECT :answer, overage, trim_scale(cost) AS cost FROM check_and_consume_quota(:'fay', 'hierarchy_soft', 5);
SELECT :answer, overage, trim_scale(cost) AS cost FROM check_and_consume_quota(:'fay', 'hierarchy_soft', 6);
SELECT :answer, overage, trim_scale(cost) AS cost FROM check_and_consume_quota(:'gus', 'hierarchy_soft', 1);
SELECT * FROM pg_temp.accounts('hierarchy_soft');
SELECT name, kind, amount, overage, of FROM pg_temp.events('hierarchy_soft') ORDER BY amount DESC, of NULLS FIRST;

-- Reservations: held on all levels ----------------------------------------------------------------------------------------

SELECT :answer, reservation_id AS r FROM reserve_quota(:'ann', 'hierarchy_days', 4) \gset ann_
\echo :ann_allowed :ann_reason :ann_granted :ann_binding :ann_limit_amount :ann_period :ann_used :ann_remaining
SELECT * FROM pg_temp.accounts('hierarchy_days');
-- the team has 4: five fit when the hold is gone
SELECT :answer, retry_after FROM check_and_consume_quota(:'ben', 'hierarchy_days', 5);
SET quota.test_clock = '2026-03-10 12:02:00+00';
SELECT :answer, shortfall FROM settle_reservation(:'ann_r', 3);
SELECT :answer, shortfall, already_processed FROM settle_reservation(:'ann_r', 3);
SELECT * FROM pg_temp.accounts('hierarchy_days');
SELECT * FROM pg_temp.events('hierarchy_days');
SET quota.test_clock = '2026-03-10 12:03:00+00';
SELECT :answer, reservation_id AS r FROM reserve_quota(:'ben', 'hierarchy_days', 5, '1 minute') \gset ben_
\echo :ben_allowed :ben_reason :ben_granted :ben_binding :ben_limit_amount :ben_period :ben_used :ben_remaining
SELECT :answer, retry_after FROM check_and_consume_quota(:'ann', 'hierarchy_days', 2);
-- the hold ends at the same instant for all levels, whoever calls first
SET quota.test_clock = '2026-03-10 12:04:00+00';
SELECT :answer FROM check_and_consume_quota(:'ann', 'hierarchy_days', 2);
SELECT allowed, reason FROM settle_reservation(:'ben_r', 5);
SELECT :answer FROM check_and_consume_quota(:'ben', 'hierarchy_days', 1);
SELECT * FROM pg_temp.accounts('hierarchy_days');
SELECT name, kind, count(*), sum(amount) AS amount, sum(held) AS held FROM pg_temp.events('hierarchy_days') GROUP BY 1, 2 ORDER BY 1, 2;
-- settle above: the extra must fit on all levels
SET quota.test_clock = '2026-03-11 12:00:00+00';
SELECT a.reservation_id AS r1, b.reservation_id AS r2 FROM reserve_quota(:'ann', 'hierarchy_days', 1) AS a, reserve_quota(:'ben', 'hierarchy_days', 1) AS b \gset
SELECT :answer, shortfall FROM settle_reservation(:'r1', 2);
SELECT :answer, shortfall FROM cancel_reservation(:'r2');
SELECT reservation_id AS r FROM reserve_quota(:'ben', 'hierarchy_days', 0.25) \gset
SELECT :answer, shortfall FROM settle_reservation(:'r', 0.5);
SELECT * FROM pg_temp.accounts('hierarchy_days');
-- ann has 4 until tomorrow, the team 0.5 until April: the longest wait is told; for ever is longest of all
SELECT :answer, justify_hours(retry_after) AS retry_after FROM check_and_consume_quota(:'ann', 'hierarchy_days', 5);
SELECT :answer, retry_after FROM check_and_consume_quota(:'ann', 'hierarchy_days', 6);

-- Gauges -----------------------------------------------------------------------------------------------------------------------

SELECT :answer FROM check_and_consume_quota(:'ann', 'hierarchy_seats', 3);
SELECT :answer FROM check_and_consume_quota(:'ben', 'hierarchy_seats', 5);
SELECT :answer FROM check_and_consume_quota(:'ann', 'hierarchy_seats', 3);
SELECT :answer FROM check_and_consume_quota(:'ann', 'hierarchy_seats', 2);
SELECT :answer FROM check_and_consume_quota(:'cat', 'hierarchy_seats', 1);
-- ann gives back the 5 that she has, so the team gets 5 back, too
SELECT :answer FROM release_quota(:'ann', 'hierarchy_seats', 10);
SELECT * FROM pg_temp.accounts('hierarchy_seats');
SELECT :answer FROM check_and_consume_quota(:'cat', 'hierarchy_seats', 1);
SELECT :answer FROM release_quota(:'cat', 'hierarchy_seats', 1);
-- set: the team moves by as much as the member does; the team can be set alone
SELECT :answer FROM set_gauge(:'ann', 'hierarchy_seats', 4);
SELECT name, used FROM pg_temp.accounts('hierarchy_seats');
SELECT :answer FROM set_gauge(:'ann', 'hierarchy_seats', 1);
SELECT name, used FROM pg_temp.accounts('hierarchy_seats');
SELECT :answer FROM set_gauge(:'team', 'hierarchy_seats', 8);
SELECT :answer FROM set_gauge(:'ann', 'hierarchy_seats', 7);
SELECT name, used FROM pg_temp.accounts('hierarchy_seats');

-- Several at once ------------------------------------------------------------------------------------------------------------------

SELECT :answer FROM consume_up_to(:'hal', 'hierarchy_calls', 50);
SELECT :answer FROM consume_up_to(:'ida', 'hierarchy_calls', 50);
SELECT :answer FROM consume_up_to(:'ida', 'hierarchy_calls', 50);
SELECT metric, :answer FROM consume_quotas(:'ida', '{"hierarchy_calls": 1, "hierarchy_days": 1}');
SELECT metric, :answer FROM consume_quotas(:'ida', '{"hierarchy_soft": 1, "hierarchy_days": 1}');
SELECT metric, :answer FROM consume_quota_batch(ARRAY[:'hal', :'ida', :'ida', :'hal']::uuid[], array_fill('hierarchy_days'::text, ARRAY[4]), ARRAY[5, 4, 2, 0.5]);
SELECT * FROM pg_temp.accounts('hierarchy_days') WHERE name IN ('hal', 'ida', 'team3');
SELECT * FROM pg_temp.accounts('hierarchy_calls') WHERE name IN ('hal', 'ida', 'team3');
-- a metric that both named subjects and their team share in one batch
SELECT metric, :answer FROM consume_quota_batch(ARRAY[:'team3', :'ida']::uuid[], ARRAY['hierarchy_seats', 'hierarchy_seats'], ARRAY[9, 2]);

-- Who moves to another parent leaves behind what was charged there ------------------------------------------------------------------------

SELECT :answer, event_id AS e FROM check_and_consume_quota(:'hal', 'hierarchy_soft', 1) \gset hal_
UPDATE subscriptions SET parent = :'team2' WHERE user_id = :'hal';
SELECT :answer FROM check_and_consume_quota(:'hal', 'hierarchy_soft', 2);
SELECT name, used, overage FROM pg_temp.accounts('hierarchy_soft') WHERE name IN ('hal', 'team2', 'team3');
SELECT :answer FROM refund_quota(:'hal_e');
SELECT name, used, overage FROM pg_temp.accounts('hierarchy_soft') WHERE name IN ('hal', 'team2', 'team3');
-- a parent without a subscription has the default plan
SELECT :answer FROM check_and_consume_quota(:'joe', 'hierarchy_calls', 1);
SET quota.default_plan = 'hierarchy_team';
SELECT :answer FROM check_and_consume_quota(:'joe', 'hierarchy_calls', 2);
SELECT name, used FROM pg_temp.accounts('hierarchy_calls') WHERE name IN ('joe', 'ghost');
RESET quota.default_plan;

-- How long a denial lasts is up to all levels ----------------------------------------------------------------------------------------------------

SET quota.test_clock = '2026-05-10 12:00:00+00';
INSERT INTO metrics (metric) VALUES ('hierarchy_wait');
INSERT INTO plans (plan) VALUES ('hierarchy_daily'), ('hierarchy_less');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('hierarchy_daily', 'hierarchy_wait', 'day', 6), ('hierarchy_less', 'hierarchy_wait', 'month', 5);
SELECT md5('hierarchy kim')::uuid AS kim, md5('hierarchy kim team')::uuid AS kim_team, md5('hierarchy lea')::uuid AS lea, md5('hierarchy lea team')::uuid AS lea_team,
	md5('hierarchy mia')::uuid AS mia, md5('hierarchy mia team')::uuid AS mia_team \gset
INSERT INTO subscriptions (user_id, plan, parent, pending_plan, pending_at) VALUES
	(:'kim_team', NULL, NULL, NULL, NULL), (:'kim', NULL, :'kim_team', NULL, NULL),
	(:'lea_team', NULL, NULL, 'hierarchy_less', '2026-05-10 18:00+00'), (:'lea', 'hierarchy_daily', :'lea_team', NULL, NULL),
	(:'mia_team', 'hierarchy_less', NULL, NULL, NULL), (:'mia', 'hierarchy_daily', :'mia_team', NULL, NULL);
-- the limit of the one who denies ends tomorrow at 9, and the team's has none
INSERT INTO limit_overrides (user_id, metric, limit_amount, expires_at) VALUES
	(:'kim', 'hierarchy_wait', 2, '2026-05-11 09:00+00'), (:'kim_team', 'hierarchy_wait', NULL, NULL);
SELECT allowed, reason, binding_user_id = :'kim' AS binds, retry_after FROM check_and_consume_quota(:'kim', 'hierarchy_wait', 3);
SET quota.test_clock = '2026-05-11 08:59:59.999999+00';
SELECT allowed, retry_after FROM check_quota(:'kim', 'hierarchy_wait', 3);
SET quota.test_clock = '2026-05-11 09:00:00+00';
SELECT allowed, binding_user_id = :'kim_team' AS binds FROM check_quota(:'kim', 'hierarchy_wait', 3);
-- the day begins anew at midnight; 5 units are granted then, 6 not any more, because the team has limits from 18:00 on
SET quota.test_clock = '2026-05-10 12:00:00+00';
SELECT allowed, granted FROM check_and_consume_quota(:'lea', 'hierarchy_wait', 6);
SELECT n, allowed, binding_user_id = :'lea' AS binds, retry_after FROM generate_series(5, 6) AS n, check_quota(:'lea', 'hierarchy_wait', n) ORDER BY n;
SET quota.test_clock = '2026-05-11 00:00:00+00';
SELECT n, allowed, binding_user_id = :'lea_team' AS binds, retry_after FROM generate_series(5, 6) AS n, check_quota(:'lea', 'hierarchy_wait', n) ORDER BY n;
-- by midnight the bonus that lets the team admit 6 units today has expired; next month it has 5 again, which are enough for 5 alone
SET quota.test_clock = '2026-05-10 12:00:00+00';
INSERT INTO user_bonuses (user_id, metric, amount, expires_at, granted_at) VALUES (:'mia_team', 'hierarchy_wait', 8, '2026-05-10 20:00+00', '2026-05-10 12:00+00');
SELECT allowed, granted, trim_scale(bonus_used) AS bonus_used FROM check_and_consume_quota(:'mia', 'hierarchy_wait', 6);
SELECT n, allowed, binding_user_id = :'mia' AS binds, retry_after, justify_hours(retry_after) AS days FROM generate_series(5, 6) AS n, check_quota(:'mia', 'hierarchy_wait', n) ORDER BY n;
SET quota.test_clock = '2026-06-01 00:00:00+00';
SELECT n, allowed FROM generate_series(5, 6) AS n, check_quota(:'mia', 'hierarchy_wait', n) ORDER BY n;

-- Chains: 8 subjects, no circles ----------------------------------------------------------------------------------------------------------------

INSERT INTO subscriptions (user_id, plan, parent)
	SELECT md5('hierarchy ' || i)::uuid, 'hierarchy_member', CASE WHEN i > 1 THEN md5('hierarchy ' || i - 1)::uuid END FROM generate_series(1, 8) AS i ORDER BY i;
SELECT allowed, granted, remaining, binding_user_id = md5('hierarchy 8')::uuid AS binds FROM check_and_consume_quota(md5('hierarchy 8')::uuid, 'hierarchy_calls', 3);
SELECT allowed, granted, remaining, binding_user_id = md5('hierarchy 4')::uuid AS binds FROM check_and_consume_quota(md5('hierarchy 4')::uuid, 'hierarchy_calls', 5);
SELECT allowed, remaining, binding_user_id = md5('hierarchy 4')::uuid AS binds FROM check_and_consume_quota(md5('hierarchy 8')::uuid, 'hierarchy_calls', 3);
SELECT i, used FROM generate_series(1, 8) AS i JOIN usage_tracking ON user_id = md5('hierarchy ' || i)::uuid ORDER BY i;
INSERT INTO subscriptions (user_id, plan, parent) VALUES (md5('hierarchy 9')::uuid, 'hierarchy_member', md5('hierarchy 8')::uuid);
UPDATE subscriptions SET parent = :'org' WHERE user_id = md5('hierarchy 1')::uuid;
UPDATE subscriptions SET parent = md5('hierarchy 8')::uuid WHERE user_id = md5('hierarchy 1')::uuid;
UPDATE subscriptions SET parent = user_id WHERE user_id = :'org';
UPDATE subscriptions SET parent = :'ann' WHERE user_id = :'org';
SELECT pg_temp.name_of(parent) AS parent FROM subscriptions WHERE user_id = :'org';

-- The books -----------------------------------------------------------------------------------------------------------------------------------------

SELECT v.metric, v.period, counter, recorded, expected
	FROM (SELECT user_id FROM subscriptions WHERE plan LIKE 'hierarchy%' UNION SELECT :'ghost') AS s (u), verify_ledger(u) AS v;

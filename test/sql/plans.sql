-- Plans in motion: what each strategy of assign_plan does, the change log, and parents.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
-- ten of April's thirty days are over
SET quota.test_clock = '2026-04-11 00:00:00+00';

INSERT INTO metrics (metric, kind) VALUES ('plans_calls', 'counter'), ('plans_other', 'counter'), ('plans_total', 'counter'), ('plans_seats', 'gauge'),
	('plans_weekly', 'counter');
INSERT INTO plans (plan) VALUES ('plans_small'), ('plans_medium'), ('plans_large'), ('plans_open'), ('plans_forever');
INSERT INTO plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	('plans_small', 'plans_calls', 'month', 100, 'calendar'), ('plans_small', 'plans_calls', 'day', 10, 'calendar'),
	('plans_small', 'plans_total', 'lifetime', 5, 'calendar'), ('plans_small', 'plans_seats', 'lifetime', 2, 'calendar'),
	('plans_medium', 'plans_calls', 'month', 400, 'calendar'), ('plans_medium', 'plans_calls', 'day', 40, 'calendar'),
	('plans_medium', 'plans_other', 'month', 90, 'calendar'),
	('plans_medium', 'plans_total', 'lifetime', 50, 'calendar'), ('plans_medium', 'plans_seats', 'month', 20, 'calendar'),
	('plans_large', 'plans_calls', 'month', 1000, 'calendar'), ('plans_large', 'plans_weekly', 'week', 70, 'subscription'),
	('plans_open', 'plans_calls', 'month', NULL, 'calendar'),
	('plans_forever', 'plans_total', 'lifetime', 5, 'calendar'), ('plans_forever', 'plans_seats', 'month', 5, 'calendar');
SELECT md5('plans ann')::uuid AS ann, md5('plans ben')::uuid AS ben, md5('plans cat')::uuid AS cat, md5('plans dan')::uuid AS dan,
	md5('plans eve')::uuid AS eve, md5('plans fay')::uuid AS fay, md5('plans gus')::uuid AS gus, md5('plans hal')::uuid AS hal,
	md5('plans ida')::uuid AS ida, md5('plans joe')::uuid AS joe \gset

-- limits as the engine sees them
CREATE FUNCTION pg_temp.limits(p_user_id uuid, OUT metric text, OUT period text, OUT plan text, OUT limit_amount numeric, OUT used numeric, OUT remaining numeric, OUT resets_at timestamptz)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT s.metric, s.period, s.plan, trim_scale(s.limit_amount), trim_scale(s.used), trim_scale(s.remaining), s.resets_at
		FROM quota.get_user_quota_status(p_user_id) AS s WHERE s.limit_user_id = p_user_id
$$;
CREATE FUNCTION pg_temp.overrides(p_user_id uuid, OUT metric text, OUT period text, OUT limit_amount numeric, OUT expires_at timestamptz, OUT reason text)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT o.metric, o.period, trim_scale(o.limit_amount), o.expires_at, o.reason
		FROM quota.limit_overrides o WHERE o.user_id = p_user_id ORDER BY o.metric, o.period NULLS FIRST
$$;
CREATE FUNCTION pg_temp.changes(p_user_id uuid, OUT old_plan text, OUT new_plan text, OUT strategy text, OUT effective_at timestamptz, OUT reason text, OUT detail jsonb, OUT created_at timestamptz)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT l.old_plan, l.new_plan, l.strategy, l.effective_at, l.reason, l.detail, l.created_at
		FROM quota.plan_change_log l WHERE l.user_id = p_user_id AND l.actor = session_user ORDER BY l.created_at, l.effective_at, l.old_plan NULLS FIRST, l.new_plan
$$;
CREATE FUNCTION pg_temp.subscription(p_user_id uuid, OUT plan text, OUT pending_plan text, OUT pending_at timestamptz, OUT switches integer, OUT has_parent boolean)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT s.plan, s.pending_plan, s.pending_at, s.switches, s.parent IS NOT NULL FROM quota.subscriptions s WHERE s.user_id = p_user_id
$$;

-- keep: what is used counts against the new plan ------------------------------------------

SELECT assign_plan(:'ann', 'plans_small', p_reason => 'signed up');
SELECT allowed FROM check_and_consume_quota(:'ann', 'plans_calls', 8);
SELECT assign_plan(:'ann', 'plans_medium', 'keep');
SELECT * FROM pg_temp.limits(:'ann');
SELECT * FROM pg_temp.overrides(:'ann');
-- the first plan is no switch; the same plan again is neither a switch nor a change
SELECT assign_plan(:'ann', 'plans_medium', p_time_zone => 'Asia/Tokyo');
SELECT * FROM pg_temp.subscription(:'ann');
SELECT * FROM pg_temp.changes(:'ann');
SELECT current_plan(:'ann'), current_plan(:'joe') AS none;

-- prorate ---------------------------------------------------------------------------------------

-- 100 for ten days, 400 for twenty: 100/3 + 400 * 2/3 = 300.  The day has just begun, so its share is all of it: 40.
-- plans_other was not in the old plan: 0/3 + 90 * 2/3 = 60.  A lifetime and a gauge have no period: the new plan's at once.
SELECT assign_plan(:'ben', 'plans_small');
SELECT allowed FROM check_and_consume_quota(:'ben', 'plans_calls', 8);
SELECT assign_plan(:'ben', 'plans_medium', 'prorate', p_reason => 'upgrade');
SELECT * FROM pg_temp.limits(:'ben');
SELECT * FROM pg_temp.overrides(:'ben');
-- ten days later: 100/3 + 400/3 + 1000/3 = 500, what is used of it stays used
SET quota.test_clock = '2026-04-21 00:00:00+00';
SELECT allowed FROM check_and_consume_quota(:'ben', 'plans_calls', 32);
SELECT assign_plan(:'ben', 'plans_large', 'prorate');
SELECT * FROM pg_temp.limits(:'ben');
SELECT * FROM pg_temp.overrides(:'ben');
SELECT * FROM pg_temp.changes(:'ben');
-- and not a unit more
SELECT allowed, remaining FROM check_and_consume_quota(:'ben', 'plans_calls', 460.000001);
SELECT allowed, remaining FROM check_and_consume_quota(:'ben', 'plans_calls', 460);
-- the next period is the new plan's alone
SET quota.test_clock = '2026-05-01 00:00:00+00';
SELECT * FROM pg_temp.limits(:'ben') WHERE metric = 'plans_calls';
-- half a day: 10 * 1/2 + 40 * 1/2 = 25 (day); 100 * 20.5/30 + 400 * 9.5/30 = 195 (month); 90 * 9.5/30 = 28.5 (other)
SET quota.test_clock = '2026-04-21 12:00:00+00';
SELECT assign_plan(:'cat', 'plans_small');
SELECT assign_plan(:'cat', 'plans_medium', 'prorate');
SELECT * FROM pg_temp.limits(:'cat');
-- down again, three hours later: 25 - 30 * 9/24 = 13.75 (day); 195 - 300 * 9.375/30 = 101.25 (month); other is gone
SET quota.test_clock = '2026-04-21 15:00:00+00';
SELECT assign_plan(:'cat', 'plans_small', 'prorate');
SELECT * FROM pg_temp.limits(:'cat');
SELECT * FROM pg_temp.overrides(:'cat');
-- "keep" is for the new plan's limits as they are, so nothing of it stays
SELECT assign_plan(:'cat', 'plans_large', 'keep');
SELECT * FROM pg_temp.limits(:'cat');
SELECT * FROM pg_temp.overrides(:'cat');
-- rounded to millionths
SET quota.test_clock = '2026-04-21 15:00:01+00';
SELECT assign_plan(:'cat', 'plans_small', 'prorate');
SELECT limit_amount, limit_amount = round(1000 - 900 * (9 * 86400 + 9 * 3600 - 1)::numeric / (30 * 86400), 6) AS as_reckoned
	FROM pg_temp.limits(:'cat') WHERE period = 'month';

-- to and from unlimited: to it, unlimited at once; from it, what was used and the new plan's share: 7 + 100 * 9/30 = 37
SET quota.test_clock = '2026-04-22 00:00:00+00';
SELECT assign_plan(:'dan', 'plans_small');
SELECT assign_plan(:'dan', 'plans_open', 'prorate');
SELECT * FROM pg_temp.limits(:'dan');
SELECT * FROM pg_temp.overrides(:'dan');
SELECT allowed FROM check_and_consume_quota(:'dan', 'plans_calls', 7);
SELECT assign_plan(:'dan', 'plans_small', 'prorate');
SELECT * FROM pg_temp.limits(:'dan') WHERE metric = 'plans_calls';

-- an override that somebody has set stays and counts: for the month here, the day is prorated
SELECT assign_plan(:'eve', 'plans_small'), set_limit_override(:'eve', 'plans_calls', 77, NULL, 'a friend');
SELECT assign_plan(:'eve', 'plans_medium', 'prorate');
SELECT * FROM pg_temp.limits(:'eve');
SELECT * FROM pg_temp.overrides(:'eve');
SELECT assign_plan(:'eve', 'plans_small', 'additive');
SELECT * FROM pg_temp.overrides(:'eve');
-- also one that names the window; one that has expired is in nobody's way, and one set later takes the place of ours
SELECT clear_limit_override(:'eve', 'plans_calls'), set_limit_override(:'eve', 'plans_calls', 78, '2026-04-22 00:00:01+00', 'a guest', 'month');
SELECT assign_plan(:'eve', 'plans_medium', 'additive');
SELECT * FROM pg_temp.overrides(:'eve');
SET quota.test_clock = '2026-04-22 00:00:01+00';
SELECT assign_plan(:'eve', 'plans_large', 'prorate');
SELECT metric, period, expires_at, reason FROM pg_temp.overrides(:'eve');
SELECT set_limit_override(:'eve', 'plans_calls', 5000, NULL, 'a sponsor');
SELECT * FROM pg_temp.overrides(:'eve') WHERE metric = 'plans_calls';
SELECT limit_amount FROM pg_temp.limits(:'eve') WHERE metric = 'plans_calls';

-- additive ------------------------------------------------------------------------------------------

-- 60 of 100 used, 40 left; 400 more make 440 left, so the limit is 500 until the month ends.
-- The day has 10 of 10 used, nothing left; 40 more make 40 left, so the limit is 50.
SET quota.test_clock = '2026-04-22 00:00:00+00';
SELECT assign_plan(:'fay', 'plans_small'), set_limit_override(:'fay', 'plans_calls', NULL, NULL, NULL, 'day');
SELECT allowed FROM check_and_consume_quota(:'fay', 'plans_calls', 50);
SET quota.test_clock = '2026-04-23 00:00:00+00';
SELECT clear_limit_override(:'fay', 'plans_calls', NULL, 'day');
SELECT allowed, remaining FROM check_and_consume_quota(:'fay', 'plans_calls', 10);
SELECT assign_plan(:'fay', 'plans_medium', 'additive', p_reason => 'paid twice');
SELECT * FROM pg_temp.limits(:'fay');
SELECT * FROM pg_temp.overrides(:'fay');
-- the same plan once more: 440 left and 400 more are 840; the day: 40 left and 40 more are 80; other: 90 and 90
SELECT assign_plan(:'fay', 'plans_medium', 'additive');
SELECT metric, period, limit_amount, used, remaining FROM pg_temp.limits(:'fay') WHERE metric IN ('plans_calls', 'plans_other');
-- more used than the old limit allows: nothing was left, and nothing is owed: 1000 are left of 150 + 1000
SELECT assign_plan(:'fay', 'plans_small', 'keep'), allowed, used FROM adjust_usage(:'fay', 'plans_calls', 90, 'a late report');
SELECT metric, period, limit_amount, used, remaining FROM pg_temp.limits(:'fay') WHERE period = 'month' AND metric = 'plans_calls';
SELECT assign_plan(:'fay', 'plans_large', 'additive');
SELECT metric, period, limit_amount, used, remaining FROM pg_temp.limits(:'fay') WHERE metric = 'plans_calls';
-- what was left of unlimited is unlimited, until the month ends
SELECT assign_plan(:'fay', 'plans_open', 'additive');
SELECT assign_plan(:'fay', 'plans_small', 'additive');
SELECT metric, period, limit_amount, remaining FROM pg_temp.limits(:'fay') WHERE metric = 'plans_calls';
SELECT * FROM pg_temp.overrides(:'fay');
SET quota.test_clock = '2026-05-01 00:00:00+00';
SELECT metric, period, limit_amount, remaining FROM pg_temp.limits(:'fay') WHERE metric = 'plans_calls';
SELECT * FROM pg_temp.subscription(:'fay');

-- reset ----------------------------------------------------------------------------------------------

SET quota.test_clock = '2026-04-22 00:00:00+00';
SELECT assign_plan(:'gus', 'plans_medium');
SELECT metric, allowed FROM consume_quotas(:'gus', '{"plans_calls": 30, "plans_other": 20.5, "plans_total": 3, "plans_seats": 2}');
-- counters start again until their periods end as before, the lifetime's too; the gauge keeps its level
SET quota.test_clock = '2026-04-22 06:00:00+00';
SELECT assign_plan(:'gus', 'plans_small', 'reset', p_reason => 'new contract');
SELECT * FROM pg_temp.limits(:'gus');
SELECT metric, period, period_start, period_end, trim_scale(used) AS used, trim_scale(limit_amount) AS limit_amount FROM usage_history WHERE user_id = :'gus' ORDER BY 1, 2;
SELECT * FROM pg_temp.changes(:'gus');
-- a window of the new plan that the old one did not have begins again as well
SELECT assign_plan(:'gus', 'plans_large'), allowed FROM check_and_consume_quota(:'gus', 'plans_calls', 5);
SELECT assign_plan(:'gus', 'plans_forever');
SET quota.test_clock = '2026-04-22 07:00:00+00';
SELECT assign_plan(:'gus', 'plans_large', 'reset');
SELECT metric, period, used FROM pg_temp.limits(:'gus');
-- the same plan: a new period; a prorated limit was for the old one
SELECT assign_plan(:'gus', 'plans_small', 'prorate'), allowed FROM check_and_consume_quota(:'gus', 'plans_calls', 1);
SELECT assign_plan(:'gus', 'plans_small', 'reset');
SELECT metric, period, limit_amount, used FROM pg_temp.limits(:'gus') WHERE metric = 'plans_calls';
SELECT * FROM pg_temp.subscription(:'gus');
SELECT * FROM verify_ledger(:'gus');

-- at_period_end ---------------------------------------------------------------------------------------

-- the week that began with the subscription ends on the 29th, the month is longer
SELECT assign_plan(:'hal', 'plans_large');
SELECT allowed FROM check_and_consume_quota(:'hal', 'plans_calls', 150);
SELECT assign_plan(:'hal', 'plans_small', 'at_period_end', p_reason => 'downgrade');
SELECT * FROM pg_temp.subscription(:'hal');
SELECT * FROM pg_temp.limits(:'hal');
SELECT current_plan(:'hal'), current_plan(:'hal', true) AS announced;
-- again is once
SELECT assign_plan(:'hal', 'plans_small', 'at_period_end');
-- a last microsecond of the old plan, then the new one without anybody's doing
SET quota.test_clock = '2026-04-30 23:59:59.999999+00';
SELECT allowed, remaining, limit_amount FROM check_and_consume_quota(:'hal', 'plans_calls', 50);
SET quota.test_clock = '2026-05-01 00:00:00+00';
SELECT allowed, reason, remaining, limit_amount FROM check_and_consume_quota(:'hal', 'plans_calls', 11);
SELECT allowed, remaining, limit_amount, period FROM check_and_consume_quota(:'hal', 'plans_calls', 4);
SELECT * FROM pg_temp.limits(:'hal');
SELECT current_plan(:'hal'), current_plan(:'hal', true) AS announced;
-- the next change is one from it: 100 * 1/2 + 400 * 1/2 = 250 in the middle of a month of 31 days
SET quota.test_clock = '2026-05-16 12:00:00+00';
SELECT assign_plan(:'hal', 'plans_medium', 'prorate');
SELECT * FROM pg_temp.subscription(:'hal');
SELECT metric, period, limit_amount FROM pg_temp.limits(:'hal') WHERE metric = 'plans_calls';
SELECT * FROM pg_temp.changes(:'hal');
-- another change calls it off, so it does not count as a switch; so does the plan that the subject has
SELECT assign_plan(:'hal', 'plans_small', 'at_period_end'), assign_plan(:'hal', 'plans_open', 'at_period_end'), assign_plan(:'hal', 'plans_large');
SELECT * FROM pg_temp.subscription(:'hal');
SELECT assign_plan(:'hal', 'plans_small', 'at_period_end'), assign_plan(:'hal', 'plans_large', 'at_period_end');
SELECT * FROM pg_temp.subscription(:'hal');
SELECT old_plan, new_plan, strategy, effective_at, detail FROM pg_temp.changes(:'hal') WHERE created_at = '2026-05-16 12:00:00+00' AND detail ? 'cancelled' ORDER BY new_plan, old_plan;
-- one change after the other, both at a period's end
SELECT assign_plan(:'hal', 'plans_small', 'at_period_end');
SET quota.test_clock = '2026-06-10 12:00:00+00';
SELECT assign_plan(:'hal', 'plans_medium', 'at_period_end');
SELECT * FROM pg_temp.subscription(:'hal');
-- without a plan there is nothing to wait for; where no period ends, nothing would ever happen
SELECT assign_plan(:'ida', 'plans_forever', 'at_period_end');
SELECT assign_plan(:'ida', 'plans_small', 'at_period_end');
SELECT * FROM pg_temp.subscription(:'ida');
-- the default plan is a plan as well
SET quota.default_plan = 'plans_small';
SELECT current_plan(:'joe');
SELECT assign_plan(:'joe', 'plans_medium', 'at_period_end');
SELECT * FROM pg_temp.subscription(:'joe');
RESET quota.default_plan;

-- In all isolation levels, and undone with the transaction: 9.5 days of June's 30 have passed, so 1000 * 9.5/30 + 400 * 20.5/30 = 590
SELECT assign_plan(:'ida', 'plans_large');
SELECT allowed FROM check_and_consume_quota(:'ida', 'plans_calls', 60);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT assign_plan(:'ida', 'plans_open', 'reset');
SELECT assign_plan(:'ida', 'plans_small', 'additive');
SELECT metric, period, limit_amount, used FROM pg_temp.limits(:'ida') WHERE metric = 'plans_calls';
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT assign_plan(:'ida', 'plans_medium', 'prorate');
SELECT metric, period, limit_amount, used FROM pg_temp.limits(:'ida') WHERE metric = 'plans_calls';
SELECT assign_plan(:'ida', 'plans_large', 'at_period_end');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SET LOCAL quota.isolation = 'latest';
SELECT assign_plan(:'ida', 'plans_medium', 'reset');
SELECT metric, period, limit_amount, used FROM pg_temp.limits(:'ida') WHERE metric = 'plans_calls';
ROLLBACK;
SELECT metric, period, limit_amount, used FROM pg_temp.limits(:'ida');

-- Bad input, which changes nothing ----------------------------------------------------------------------

CREATE TEMP VIEW written AS
	SELECT 'subscriptions' AS what, t::text AS stored FROM subscriptions t UNION ALL SELECT 'overrides', t::text FROM limit_overrides t
	UNION ALL SELECT 'changes', t::text FROM plan_change_log t UNION ALL SELECT 'log', t::text FROM quota_audit_log t
	UNION ALL SELECT 'accounts', t::text FROM usage_tracking t UNION ALL SELECT 'history', t::text FROM usage_history t;
CREATE TEMP TABLE before AS TABLE written;
\t on
\a
SELECT assign_plan(NULL, 'plans_small');
SELECT assign_plan(:'ida', NULL);
SELECT assign_plan(:'ida', '');
SELECT assign_plan(:'ida', 'plans_smal');
SELECT assign_plan(:'ida', 'plans_small', NULL);
SELECT assign_plan(:'ida', 'plans_small', '');
SELECT assign_plan(:'ida', 'plans_small', 'KEEP');
SELECT assign_plan(:'ida', 'plans_small', 'at_period_end ');
SELECT assign_plan(:'ida', 'plans_small', 'keep', 'infinity');
SELECT assign_plan(:'ida', 'plans_small', 'keep', '0044-03-15 BC');
SELECT assign_plan(:'ida', 'plans_small', 'keep', NULL, 'Mars/Olympus');
SELECT assign_plan(:'hal', 'plans_small', 'at_period_end', '2026-01-01');
SELECT assign_plan(:'hal', 'plans_small', 'at_period_end', NULL, 'UTC');
SELECT current_plan(NULL);
SELECT set_parent(NULL, :'ann');
SELECT set_parent(NULL, NULL);
SELECT set_parent(:'ann', :'ann');
\a
\t off
SELECT count(*) FROM ((TABLE written EXCEPT ALL TABLE before) UNION ALL (TABLE before EXCEPT ALL TABLE written)) AS d;

-- Parents ---------------------------------------------------------------------------------------------------

SELECT set_parent(:'ann', :'ben', 'joined');
SELECT * FROM pg_temp.subscription(:'ann');
-- the plan goes on having a parent, and a member need not have a plan
SELECT assign_plan(:'ann', 'plans_small');
SELECT set_parent(md5('plans kim')::uuid, :'ann');
SELECT plan, anchor, time_zone, created_at, switches, parent = :'ann' AS of_ann FROM subscriptions WHERE user_id = md5('plans kim')::uuid;
SELECT current_plan(md5('plans kim')::uuid) AS none;
-- to nobody: no circle, of any length
SELECT set_parent(:'ben', :'ann');
SELECT set_parent(:'ben', md5('plans kim')::uuid);
UPDATE subscriptions SET parent = user_id WHERE user_id = :'ben';
INSERT INTO subscriptions (user_id, parent) VALUES (md5('plans lea')::uuid, md5('plans lea')::uuid);
-- two halves of a circle in one statement
UPDATE subscriptions SET parent = CASE user_id WHEN :'cat' THEN :'dan'::uuid ELSE :'cat'::uuid END WHERE user_id IN (:'cat', :'dan');
SELECT count(*) FROM subscriptions WHERE parent IS NOT NULL AND user_id IN (:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus', :'hal', :'ida', :'joe');
-- where nobody is in the way any longer, roles may be exchanged
SELECT set_parent(:'ann', NULL, 'left');
SELECT set_parent(:'ben', :'ann');
SELECT reason, detail -> 'old' ->> 'parent' IS NULL AS had_none, detail -> 'new' ->> 'parent' = :'ben' AS now_of_ben, actor = session_user AS by_me, success
	FROM quota_audit_log WHERE user_id = :'ann' AND action = 'set_parent' ORDER BY reason;
SELECT set_parent(md5('plans nobody')::uuid, NULL);
SELECT count(*) FROM subscriptions WHERE user_id = md5('plans nobody')::uuid;
SELECT assign_plan(md5('plans kim')::uuid, 'plans_large');
SELECT * FROM pg_temp.subscription(md5('plans kim')::uuid);

-- eight levels and no more, counted up and down
SELECT count(set_parent(md5('plans level' || n)::uuid, md5('plans level' || n + 1)::uuid)) FROM generate_series(2, 8) AS n;
SELECT set_parent(md5('plans level1')::uuid, md5('plans level2')::uuid);
SELECT set_parent(md5('plans level9')::uuid, md5('plans level10')::uuid);
SELECT set_parent(md5('plans level1')::uuid, md5('plans level3')::uuid);
-- the 4 from level2 to level5 below the 5 from level6 to level10, and below 4 of them
SELECT set_parent(md5('plans level5')::uuid, NULL), set_parent(md5('plans level9')::uuid, md5('plans level10')::uuid);
SELECT set_parent(md5('plans level5')::uuid, md5('plans level6')::uuid);
SELECT set_parent(md5('plans level5')::uuid, md5('plans level7')::uuid);
INSERT INTO subscriptions (user_id, parent) SELECT md5('plans level' || n)::uuid, md5('plans level' || n + 1)::uuid FROM generate_series(11, 18) AS n;
INSERT INTO subscriptions (user_id, parent) SELECT md5('plans level' || n)::uuid, md5('plans level' || n + 1)::uuid FROM generate_series(11, 17) AS n;
SELECT count(*) FROM subscriptions WHERE user_id IN (SELECT md5('plans level' || n)::uuid FROM generate_series(11, 20) AS n);
-- in all isolation levels
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT set_parent(md5('plans level11')::uuid, NULL), set_parent(md5('plans level18')::uuid, md5('plans level19')::uuid);
SELECT set_parent(md5('plans level11')::uuid, md5('plans level12')::uuid);
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT set_parent(md5('plans level18')::uuid, md5('plans level11')::uuid);
ROLLBACK;
BEGIN READ ONLY;
SELECT set_parent(md5('plans level11')::uuid, NULL);
ROLLBACK;
BEGIN READ ONLY;
SELECT assign_plan(:'ann', 'plans_small');
ROLLBACK;
-- none of the rows that the trigger makes and undoes is there
SELECT count(*) FROM subscriptions WHERE user_id = md5('plans level19')::uuid;

-- The limits of all parents count: 1,000 a month for ben, but 10 a day for ann
SELECT allowed, binding_user_id = :'ann' AS of_ann, remaining, limit_amount FROM check_quota(:'ben', 'plans_calls', 11);
SELECT set_parent(:'ben', NULL);
SELECT allowed, binding_user_id = :'ben' AS of_ben, remaining, limit_amount FROM check_quota(:'ben', 'plans_calls', 11);

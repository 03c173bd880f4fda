-- Reports: the ledger by pages, and figures over some days.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';

-- Bounds of ids by time ------------------------------------------------------------

-- 1 ms after 1970, and half a millisecond more: 2048 of 4096 is 800
SELECT id_bound('1970-01-01 00:00:00.001+00'), id_bound('1970-01-01 00:00:00.0015+00'), id_bound('1969-01-01'), id_bound(NULL);
SELECT id_bound('-infinity') = id_bound('1970-01-01 00:00+00') AS first, id_bound('infinity') = id_bound('9999-12-31 00:00+00') AS last;
-- no entry is below the bound of its own time, none above that of the next microsecond
SELECT count(*) AS ids, bool_and(new_id(t) >= id_bound(t)) AS above, bool_and(new_id(t) < id_bound(t + '1 us')) AS below
	FROM generate_series('2026-03-10 12:00:00+00'::timestamptz, '2026-03-10 12:00:00.0025+00', '1 us') AS t;
-- those of one instant are in the order in which a session made them
SELECT count(DISTINCT id) AS ids, bool_and(id > before) AS in_order, bool_and(id::text ~ '^[0-9a-f-]{14}7[0-9a-f]{3}-[89ab]') AS version_7
	FROM (SELECT n, id, lag(id) OVER (ORDER BY n) AS before
		FROM (SELECT n, new_id('2026-03-10 12:00:00+00') AS id FROM generate_series(1, 1000) AS n) AS made) AS pairs;

-- Nothing there -----------------------------------------------------------------------

-- what other files have left is out of the way until the end
BEGIN;
TRUNCATE usage_events, bonus_allocations, quota_audit_log, usage_tracking, usage_history;
SET LOCAL quota.test_clock = '2026-03-10 12:00:00+00';
SELECT * FROM get_usage_logs();
SELECT * FROM get_quota_statistics();
SELECT * FROM get_quota_statistics(p_days => 365);
INSERT INTO metrics (metric) VALUES ('analytics_calls');
SELECT * FROM get_quota_statistics('analytics_calls');

-- One row ---------------------------------------------------------------------------------

INSERT INTO metric_aliases VALUES ('analytics_requests', 'analytics_calls');
INSERT INTO metrics (metric, kind) VALUES ('analytics_seats', 'gauge'), ('analytics_free', 'counter');
INSERT INTO plans (plan) VALUES ('analytics_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES
	('analytics_plan', 'analytics_calls', 'year', 40), ('analytics_plan', 'analytics_seats', 'lifetime', 8), ('analytics_plan', 'analytics_free', 'month', NULL);
SELECT md5('analytics ann')::uuid AS ann, md5('analytics ben')::uuid AS ben, md5('analytics cat')::uuid AS cat \gset
INSERT INTO subscriptions (user_id, plan) SELECT u, 'analytics_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat']::uuid[]) AS u;

-- on a Tuesday; 6 of 40 are 15 percent
SELECT allowed FROM check_and_consume_quota(:'ann', 'analytics_requests', 6, NULL, '{"page": 1}');
SELECT * FROM get_quota_statistics();
SELECT get_quota_statistics('analytics_requests') = get_quota_statistics() AS alias, get_quota_statistics(p_days => 1) = get_quota_statistics() AS day;
SELECT * FROM get_quota_statistics('analytics_seats');
SELECT id IS NOT NULL AS id, user_id = :'ann' AS ann, metric, kind, amount, bonus_used, overage, cost, period, metadata, refers_to, created_at FROM get_usage_logs();

-- More --------------------------------------------------------------------------------------

-- 24 hours later it is out of one day (its instant is the first that is not in), and in two
SET LOCAL quota.test_clock = '2026-03-11 11:59:59.999999+00';
SELECT total_usage, total_calls FROM get_quota_statistics(p_days => 1);
SET LOCAL quota.test_clock = '2026-03-11 12:00:00+00';
SELECT * FROM get_quota_statistics(p_days => 1);
SELECT total_usage, total_calls FROM get_quota_statistics(p_days => 2);
-- Wednesday: 2.5 and, with a key, 1.25 once and a replay; a denial (50 of 40); a conflict
SELECT allowed FROM check_and_consume_quota(:'ben', 'analytics_calls', 2.5);
SELECT allowed FROM check_and_consume_quota(:'ben', 'analytics_calls', 1.25, 'key');
SELECT allowed, already_processed FROM check_and_consume_quota(:'ben', 'analytics_calls', 1.25, 'key');
SELECT allowed, reason FROM check_and_consume_quota(:'cat', 'analytics_calls', 50);
SELECT allowed, reason FROM check_and_consume_quota(:'ben', 'analytics_calls', 2, 'key');
-- (an admin act is no call)
SELECT grant_bonus(:'cat', 'analytics_calls', 20) IS NOT NULL AS granted;
-- Tuesday a week later: 4 by ann and 5 of the unlimited one by cat; late in the evening of UTC
SET LOCAL quota.test_clock = '2026-03-17 23:30:00+00';
SELECT allowed FROM check_and_consume_quota(:'ann', 'analytics_calls', 4);
SELECT allowed FROM check_and_consume_quota(:'cat', 'analytics_free', 5);
-- a day of its own: 50 of 40 by cat, 10 of them from the bonus; a seat
SET LOCAL quota.test_clock = '2026-03-19 08:00:00+00';
SELECT allowed, bonus_used FROM check_and_consume_quota(:'cat', 'analytics_calls', 50);
SELECT allowed FROM check_and_consume_quota(:'ann', 'analytics_seats', 1);

-- analytics_calls: 6 + 2.5 + 1.25 + 4 + 50 = 63.75 in 5 granted of 7 calls by 3 subjects, 12.75 each.  Thursday the 19th has 50.
-- Of their 40 ann has used 10 (25 %), ben 3.75 (9.375 %), cat 40 (100 %): 134.375 / 3 = 44.79 %
SELECT * FROM get_quota_statistics('analytics_calls');
-- all: and 5 + 1 = 69.75 in 7 of 9 calls, 9.964286 each; ann's seat is 1 of 8 (12.5 %): 146.875 / 4 = 36.72 %
SELECT * FROM get_quota_statistics();
-- the same in a session of another zone
SET LOCAL TimeZone = 'Pacific/Auckland';
SELECT peak_usage_date, peak_weekday, total_usage FROM get_quota_statistics();
SET LOCAL TimeZone = 'UTC';
-- the last 2 days at 8:00 begin on the 17th at 8:00: 4 + 5 + 50 + 1
SELECT total_usage, total_calls, unique_users, peak_usage_date, most_used_metric FROM get_quota_statistics(p_days => 2);
-- a year on, the yearly accounts are over and their calls not in the last 300 days; the seat stays
SET LOCAL quota.test_clock = '2027-03-01 00:00:00+00';
SELECT total_usage, total_calls, utilisation FROM get_quota_statistics('analytics_calls', 300);
SELECT total_usage, total_calls, utilisation FROM get_quota_statistics('analytics_calls', 365);
SELECT total_usage, total_calls, utilisation FROM get_quota_statistics('analytics_seats', 300);
-- before it all, nothing has happened yet
SET LOCAL quota.test_clock = '2026-03-10 11:59:59+00';
SELECT total_usage, total_calls, unique_users, peak_weekday FROM get_quota_statistics();

-- Net usage: what other kinds of events leave, as rows of the ledger ---------------------------

SET LOCAL quota.test_clock = '2026-05-20 12:00:00+00';
INSERT INTO metrics (metric) VALUES ('analytics_net');
CREATE FUNCTION pg_temp.event(p_nr integer, p_kind text, p_day integer, p_amount numeric, p_cost numeric, p_refers_to integer DEFAULT NULL, p_user text DEFAULT 'analytics ann')
	RETURNS void LANGUAGE sql AS $$
	INSERT INTO quota.usage_events (id, user_id, metric, kind, amount, bonus_used, period, created_at, cost, refers_to)
		SELECT overlay(quota.id_bound(t.at)::text PLACING lpad(p_nr::text, 4, '0') FROM 33)::uuid, md5(p_user)::uuid, 'analytics_net', p_kind, p_amount, 0, 'month', t.at, p_cost,
				(SELECT e.id FROM quota.usage_events e WHERE e.metric = 'analytics_net' AND right(e.id::text, 4)::int = p_refers_to)
			FROM (SELECT '2026-05-01 00:00+00'::timestamptz + (p_day - 1) * interval '1 day' + p_nr * interval '1 minute') AS t (at)
$$;
DO $$
BEGIN
	-- Friday the 1st: 10 for 5, and 3 of them given back on Saturday for 1.50
	PERFORM pg_temp.event(1, 'consume', 1, 10, 5);
	PERFORM pg_temp.event(2, 'refund', 2, -3, -1.5, 1);
	-- the 10 that a parent was charged along with it, and what was given back of them: no more usage, but its cost
	PERFORM pg_temp.event(3, 'consume', 1, 10, 0.25, 1, 'analytics org');
	PERFORM pg_temp.event(4, 'refund', 2, -3, 0, 3, 'analytics org');
	-- a reservation of both, settled with 4 on Sunday, and 1 of that given back on Monday
	PERFORM pg_temp.event(5, 'reserve', 2, 0, 0);
	PERFORM pg_temp.event(6, 'reserve', 2, 0, 0, 5, 'analytics org');
	PERFORM pg_temp.event(7, 'settle', 3, 4, 0, 5);
	PERFORM pg_temp.event(8, 'settle', 3, 4, 0, 6, 'analytics org');
	PERFORM pg_temp.event(9, 'refund', 4, -1, 0, 7);
	PERFORM pg_temp.event(10, 'refund', 4, -1, 0, 8, 'analytics org');
	-- a release, an adjustment, a repayment (which moves money only)
	PERFORM pg_temp.event(11, 'release', 5, -2, 0);
	PERFORM pg_temp.event(12, 'adjust', 5, 0.5, 0);
	PERFORM pg_temp.event(13, 'repay', 5, 0, -0.75, 1);
END
$$;
-- 10 - 3 + 4 - 1 - 2 + 0.5 = 8.5; 5 - 1.5 + 0.25 - 0.75 = 3; nobody called, so no mean; the most on Friday the 1st
SELECT * FROM get_quota_statistics('analytics_net');
-- by days: what was given back later is negative, and no peak.  From the 4th at 12:00 on: -2 + 0.5
SELECT total_usage, peak_usage_date, peak_weekday, most_used_metric FROM get_quota_statistics('analytics_net', 16);
-- equal weekdays: the first of the week.  Sunday the 3rd has 4, and so have Mondays: 5 on the 11th, -1 on the 4th
DO $$ BEGIN PERFORM pg_temp.event(14, 'consume', 11, 5, 0); END $$;
SELECT total_usage, peak_usage_date, peak_weekday FROM get_quota_statistics('analytics_net', 18);

-- get_usage_logs: filters and pages ---------------------------------------------------------------

SET LOCAL quota.test_clock = '2026-05-20 12:00:00+00';
SELECT created_at, kind, amount, cost FROM get_usage_logs(p_metric => 'analytics_net', p_limit => 3);
SELECT created_at, kind, amount, cost FROM get_usage_logs(p_metric => 'analytics_net', p_limit => 3, p_offset => 3);
SELECT count(*) FROM get_usage_logs(p_metric => 'analytics_net', p_offset => 13);
SELECT count(*) FROM get_usage_logs(p_metric => 'analytics_net', p_offset => 14);
SELECT created_at, metric, kind, amount, bonus_used FROM get_usage_logs(:'cat');
SELECT created_at, metric, amount FROM get_usage_logs(:'ann', 'analytics_requests');
SELECT created_at, kind, amount FROM get_usage_logs(p_kind => 'settle');
SELECT created_at, kind, amount FROM get_usage_logs(md5('analytics org')::uuid, 'analytics_net', p_kind => 'refund', p_limit => 1);
-- from and up to, to the microsecond
SELECT created_at, amount FROM get_usage_logs(p_metric => 'analytics_calls', p_from => '2026-03-11 12:00:00+00', p_to => '2026-03-17 23:30:00+00') ORDER BY amount;
SELECT created_at, amount FROM get_usage_logs(p_metric => 'analytics_calls', p_from => '2026-03-11 12:00:00.000001+00', p_to => '2026-03-17 23:30:00.000001+00');
SELECT count(*) FROM get_usage_logs(p_from => '-infinity', p_to => 'infinity');
SELECT count(*) FROM get_usage_logs(p_from => 'infinity');
SELECT count(*) FROM get_usage_logs(p_to => '-infinity');
SELECT count(*) FROM get_usage_logs(p_from => '2026-03-12 00:00+00', p_to => '2026-03-11 00:00+00');
SELECT count(*) FROM get_usage_logs(p_limit => 10000, p_offset => 0);
-- what is older than 1970 has the ids of its first millisecond
DO $$ BEGIN PERFORM pg_temp.event(15, 'adjust', -30000, 1, 0); END $$;
SELECT created_at, amount FROM get_usage_logs(p_to => '1970-01-01 00:00+00');
SELECT count(*) FROM get_usage_logs(p_to => '1900-01-01 00:00+00');
SELECT created_at, amount FROM get_usage_logs(p_from => '1900-01-01 00:00+00', p_to => '2000-01-01 00:00+00');
-- who is not there
SELECT count(*) FROM get_usage_logs(md5('analytics nobody')::uuid);

-- Bad input ---------------------------------------------------------------------------------------

\set ON_ERROR_ROLLBACK on
SELECT get_usage_logs(p_metric => 'analytics_cals');
SELECT get_usage_logs(p_metric => '');
SELECT get_usage_logs(p_limit => 0);
SELECT get_usage_logs(p_limit => -1);
SELECT get_usage_logs(p_limit => 10001);
SELECT get_usage_logs(p_limit => NULL);
SELECT get_usage_logs(p_offset => -1);
SELECT get_usage_logs(p_offset => NULL);
SELECT get_usage_logs(p_kind => 'consumed');
SELECT get_usage_logs(p_kind => '');
SELECT get_quota_statistics('analytics_cals');
SELECT get_quota_statistics('');
SELECT get_quota_statistics(p_days => 0);
SELECT get_quota_statistics(p_days => -1);
SELECT get_quota_statistics(p_days => 366);
SELECT get_quota_statistics(p_days => NULL);

-- Rights: for monitors, and not for the app; the keys and responses the other way round ------------------

CREATE ROLE regress_quota_report_app;
CREATE ROLE regress_quota_report_monitor;
SELECT quota.grant_access('regress_quota_report_app', 'app'), quota.grant_access('regress_quota_report_monitor', 'monitor');
SET LOCAL ROLE regress_quota_report_monitor;
SELECT count(*) FROM quota.get_usage_logs(:'cat');
SELECT total_usage FROM quota.get_quota_statistics('analytics_net');
SELECT quota.dedupe_key(:'ann', 'analytics_calls', 'x');
SELECT quota.http_response(o) FROM quota.check_quota(:'ann', 'analytics_calls') AS o;
SET LOCAL ROLE regress_quota_report_app;
SELECT quota.get_usage_logs();
SELECT quota.get_quota_statistics();
SELECT quota.policy_name('a', 'day');
SELECT quota.dedupe_key(:'ann', 'analytics_calls', 'x') IS NOT NULL AS key;
SELECT status FROM quota.check_quota(:'ann', 'analytics_calls', 100) AS o, quota.http_response(o);
ROLLBACK;

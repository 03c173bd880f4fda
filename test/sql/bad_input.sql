-- What cannot be a request: an error with its SQLSTATE, nothing written, and
-- the connection as good as before.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric) VALUES ('bad_input_calls'), ('bad_input_free');
INSERT INTO plans (plan) VALUES ('bad_input_plan');
INSERT INTO plan_limits (plan, metric, period, limit_amount) VALUES ('bad_input_plan', 'bad_input_calls', 'month', 10),
	('bad_input_plan', 'bad_input_free', 'month', NULL);
SELECT md5('bad_input ann')::uuid AS ann \gset
INSERT INTO subscriptions (user_id, plan) VALUES (:'ann', 'bad_input_plan');
SELECT allowed, remaining, used FROM check_and_consume_quota(:'ann', 'bad_input_calls', 5, 'used');

-- All that is stored, row by row
CREATE TEMP VIEW written AS
	SELECT 'accounts' AS what, t::text AS stored FROM usage_tracking t UNION ALL SELECT 'history', t::text FROM usage_history t
	UNION ALL SELECT 'events', t::text FROM usage_events t UNION ALL SELECT 'log', t::text FROM quota_audit_log t
	UNION ALL SELECT 'bonuses', t::text FROM user_bonuses t UNION ALL SELECT 'allocations', t::text FROM bonus_allocations t
	UNION ALL SELECT 'overrides', t::text FROM limit_overrides t UNION ALL SELECT 'subscriptions', t::text FROM subscriptions t
	UNION ALL SELECT 'metrics', t::text FROM metrics t UNION ALL SELECT 'aliases', t::text FROM metric_aliases t
	UNION ALL SELECT 'plans', t::text FROM plans t UNION ALL SELECT 'limits', t::text FROM plan_limits t;
CREATE TEMP TABLE before AS TABLE written;

-- The session is as good as before each of the errors below, and the count is the same
\set still 'SELECT allowed, remaining FROM check_quota(md5(''bad_input ann'')::uuid, ''bad_input_calls'', 5);'
:still

\t on
\a
-- Who and what ----------------------------------------------------------------------

SELECT check_and_consume_quota(NULL, 'bad_input_calls');
:still
SELECT check_and_consume_quota('not a uuid', 'bad_input_calls');
:still
SELECT check_and_consume_quota(:'ann', NULL);
:still
SELECT check_and_consume_quota(:'ann', '');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_cals');
:still
SELECT check_and_consume_quota(:'ann', U&'bad_input_calls\200B');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls; DROP TABLE quota.plans');
:still
SELECT check_and_consume_quota(:'ann', repeat('x', 10240));
:still
SET quota.default_plan = 'bad_input_misspelt';
SELECT check_and_consume_quota(md5('bad_input nobody')::uuid, 'bad_input_calls');
:still
RESET quota.default_plan;

-- How much ----------------------------------------------------------------------------

SELECT check_and_consume_quota(:'ann', 'bad_input_calls', NULL);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 0);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 0.000);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', -1);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', -0.000001);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', -1000000);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', -1e30);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 'NaN');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 'Infinity');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', '-Infinity');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1e-7);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1.0000001);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1e-1000);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1e18);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_free', 1e18);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1e30);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_free', 1e30);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_free', 1e1000);
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 'one');
:still

-- Key and metadata ----------------------------------------------------------------------

SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1, '');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1, NULL, '[1]');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1, NULL, '[]');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1, NULL, '"text"');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1, NULL, '1');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1, NULL, 'null');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1, NULL, 'true');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1, NULL, '{');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1, NULL, jsonb_build_object('a', repeat('x', 1024 * 1024)));
:still
-- 64 kB and one byte
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 1, NULL, jsonb_build_object('a', repeat('x', 65536 - 16)));
:still
-- also with a key that was used, which would have been a replay
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 5, 'used', '[]');
:still
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', -5, 'used');
:still

\a
\t off
-- The other two say the same ---------------------------------------------------------------

-- $1 in a call is ann
CREATE FUNCTION pg_temp.sqlstate_of(p_call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SELECT ' || p_call USING md5('bad_input ann')::uuid;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
SELECT arguments, pg_temp.sqlstate_of('check_quota(' || arguments || ')') AS check_quota,
		pg_temp.sqlstate_of('require_quota(' || arguments || ')') AS require_quota
	FROM unnest(ARRAY[$$NULL, 'bad_input_calls'$$, $$ $1, NULL$$, $$ $1, ''$$, $$ $1, 'bad_input_cals'$$, $$ $1, 'bad_input_calls', NULL$$,
		$$ $1, 'bad_input_calls', 0$$, $$ $1, 'bad_input_calls', -1$$, $$ $1, 'bad_input_calls', 'NaN'$$, $$ $1, 'bad_input_calls', 'Infinity'$$,
		$$ $1, 'bad_input_calls', '-Infinity'$$, $$ $1, 'bad_input_calls', 1e-7$$, $$ $1, 'bad_input_calls', 1e18$$,
		$$ $1, 'bad_input_calls', 1e30$$]) AS arguments;
SELECT arguments, pg_temp.sqlstate_of($$require_quota($1, 'bad_input_calls', 1, $$ || arguments || ')') AS require_quota
	FROM unnest(ARRAY[$$''$$, $$NULL, '[]'$$, $$NULL, 'null'$$, $$NULL, jsonb_build_object('a', repeat('x', 65520))$$]) AS arguments;
-- the functions for admins, too
SELECT call, pg_temp.sqlstate_of(call) AS sqlstate
	FROM unnest(ARRAY[
		$$get_user_quota_status(NULL)$$,
		$$grant_bonus(NULL, 'bad_input_calls', 1)$$, $$grant_bonus($1, NULL, 1)$$, $$grant_bonus($1, '', 1)$$, $$grant_bonus($1, 'bad_input_cals', 1)$$,
		$$grant_bonus($1, 'bad_input_calls', NULL)$$, $$grant_bonus($1, 'bad_input_calls', 0)$$, $$grant_bonus($1, 'bad_input_calls', -3)$$,
		$$grant_bonus($1, 'bad_input_calls', 'NaN')$$, $$grant_bonus($1, 'bad_input_calls', 'Infinity')$$, $$grant_bonus($1, 'bad_input_calls', 1e-7)$$,
		$$grant_bonus($1, 'bad_input_calls', 1e18)$$,
		$$grant_bonus($1, 'bad_input_calls', 1, '2026-03-10 12:00+00')$$, $$grant_bonus($1, 'bad_input_calls', 1, '2026-03-01')$$,
		$$grant_bonus($1, 'bad_input_calls', 1, 'infinity')$$, $$grant_bonus($1, 'bad_input_calls', 1, '-infinity')$$,
		$$grant_bonus($1, 'bad_input_calls', 1, NULL, NULL, NULL)$$, $$grant_bonus($1, 'bad_input_calls', 1, p_source => 'stolen')$$,
		$$grant_bonus($1, 'bad_input_calls', 1, p_source => NULL)$$,
		$$set_limit_override(NULL, 'bad_input_calls', 1)$$, $$set_limit_override($1, NULL, 1)$$, $$set_limit_override($1, 'bad_input_cals', 1)$$,
		$$set_limit_override($1, 'bad_input_calls', -1)$$, $$set_limit_override($1, 'bad_input_calls', 'NaN')$$, $$set_limit_override($1, 'bad_input_calls', 'Infinity')$$,
		$$set_limit_override($1, 'bad_input_calls', 1e-7)$$, $$set_limit_override($1, 'bad_input_calls', 1e18)$$,
		$$set_limit_override($1, 'bad_input_calls', 1, '2026-03-10 12:00+00')$$, $$set_limit_override($1, 'bad_input_calls', 1, 'infinity')$$,
		$$set_limit_override($1, 'bad_input_calls', 1, p_period => 'fortnight')$$, $$set_limit_override($1, 'bad_input_calls', 1, p_period => '')$$,
		$$clear_limit_override(NULL, 'bad_input_calls')$$, $$clear_limit_override($1, NULL)$$, $$clear_limit_override($1, 'bad_input_cals')$$,
		$$clear_limit_override($1, 'bad_input_calls', p_period => 'fortnight')$$,
		$$assign_plan(NULL, 'bad_input_plan')$$, $$assign_plan($1, NULL)$$, $$assign_plan($1, '')$$, $$assign_plan($1, 'bad_input_misspelt')$$,
		$$assign_plan($1, 'bad_input_plan', 'reste')$$, $$assign_plan($1, 'bad_input_plan', NULL)$$, $$assign_plan($1, 'bad_input_plan', p_anchor => 'infinity')$$,
		$$assign_plan($1, 'bad_input_plan', p_time_zone => 'Mars/Olympus')$$, $$assign_plan($1, 'bad_input_plan', p_time_zone => '')$$,
		$$load_preset(NULL)$$, $$load_preset('')$$, $$load_preset('sheenaps')$$,
		$$get_users_near_quota_limit(NULL)$$, $$get_users_near_quota_limit(0)$$, $$get_users_near_quota_limit(-1)$$,
		$$get_users_near_quota_limit('NaN')$$, $$get_users_near_quota_limit(1000.01)$$, $$get_users_near_quota_limit('Infinity')$$,
		$$grant_access(0, 'app')$$, $$grant_access(current_user::regrole, 'root')$$, $$grant_access(current_user::regrole, NULL)$$]) AS call;

-- Nothing of all that was written
SELECT * FROM (TABLE written EXCEPT TABLE before) AS added UNION ALL SELECT * FROM (TABLE before EXCEPT TABLE written) AS lost;

-- Where nothing can be written --------------------------------------------------------------

BEGIN READ ONLY;
SELECT check_and_consume_quota(:'ann', 'bad_input_calls');
ROLLBACK;
BEGIN READ ONLY;
-- a call that would be denied, or replayed, writes as well
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 100);
ROLLBACK;
BEGIN READ ONLY;
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', 5, 'used');
ROLLBACK;
BEGIN READ ONLY;
SELECT require_quota(:'ann', 'bad_input_calls');
ROLLBACK;
BEGIN READ ONLY;
SELECT allowed, remaining, used FROM check_quota(:'ann', 'bad_input_calls', 2);
SELECT metric, used, remaining FROM get_user_quota_status(:'ann') WHERE metric = 'bad_input_calls';
COMMIT;
SET default_transaction_read_only = on;
SELECT check_and_consume_quota(:'ann', 'bad_input_calls');
RESET default_transaction_read_only;
SELECT * FROM (TABLE written EXCEPT TABLE before) AS added UNION ALL SELECT * FROM (TABLE before EXCEPT TABLE written) AS lost;

-- An error in a transaction: what came before is kept by a savepoint ----------------------------

BEGIN;
SELECT allowed, used FROM check_and_consume_quota(:'ann', 'bad_input_calls', 1);
SAVEPOINT s;
SELECT check_and_consume_quota(:'ann', 'bad_input_calls', -1);
ROLLBACK TO s;
SELECT allowed, used FROM check_and_consume_quota(:'ann', 'bad_input_calls', 1);
COMMIT;

-- What looks odd and is accepted ------------------------------------------------------------------

-- trailing zeros are no decimals
SELECT allowed, trim_scale(used) AS used FROM check_and_consume_quota(:'ann', 'bad_input_calls', 0.1000000);
SELECT allowed, trim_scale(used) AS used FROM check_and_consume_quota(:'ann', 'bad_input_calls', 0.9000000000000000000000);
SELECT allowed, trim_scale(used) AS used FROM check_and_consume_quota(:'ann', 'bad_input_free', 999999999999999999.999999);
SELECT allowed, trim_scale(used) AS used FROM check_and_consume_quota(:'ann', 'bad_input_free', 0.000001);
SELECT allowed, reason FROM check_and_consume_quota(:'ann', 'bad_input_calls', 999999999999999999.999999);
-- an empty object, and exactly 64 kB of metadata
SELECT allowed, trim_scale(used) AS used FROM check_and_consume_quota(:'ann', 'bad_input_calls', 0.5, NULL, '{}');
SELECT allowed, trim_scale(used) AS used FROM check_and_consume_quota(:'ann', 'bad_input_calls', 0.5, NULL, jsonb_build_object('a', repeat('x', 65536 - 17)));
SELECT trim_scale(amount) AS amount, length(metadata ->> 'a') FROM usage_events
	WHERE user_id = :'ann' AND metric = 'bad_input_calls' AND metadata IS NOT NULL ORDER BY 2 NULLS FIRST;
-- a key with a zero-width character, one of 10 kB, one of a single space
SELECT (o).allowed, (o).already_processed FROM (SELECT check_and_consume_quota(md5('bad_input ann')::uuid, 'bad_input_free', 1, k) AS o
	FROM unnest(ARRAY[U&'k\200B', 'k', repeat('k', 10240), ' ', E'k\n']) AS k OFFSET 0) AS s;

SELECT v.metric, counter, recorded, expected FROM verify_ledger(:'ann') AS v;

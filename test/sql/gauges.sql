-- Gauges: levels that are acquired, released and set, by calls and by the rows of tables.
\set VERBOSITY sqlstate
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET client_min_messages = warning;
SET quota.test_clock = '2026-03-10 12:00:00+00';

INSERT INTO metrics (metric, kind) VALUES
	('gauges_seats', 'gauge'), ('gauges_monthly', 'gauge'), ('gauges_soft', 'gauge'), ('gauges_storage', 'gauge'), ('gauges_projects', 'gauge'),
	('gauges_free', 'gauge'), ('gauges_unlisted', 'gauge'), ('gauges_calls', 'counter'), ('gauges_export', 'feature');
INSERT INTO metric_aliases VALUES ('gauges_chairs', 'gauges_seats');
INSERT INTO plans (plan) VALUES ('gauges_plan'), ('gauges_none');
INSERT INTO plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES
	('gauges_plan', 'gauges_seats', 'lifetime', 3, 'hard', NULL),
	('gauges_plan', 'gauges_monthly', 'month', 3, 'hard', NULL),
	('gauges_plan', 'gauges_soft', 'lifetime', 2, 'soft', 10),
	('gauges_plan', 'gauges_storage', 'lifetime', 10, 'hard', NULL),
	('gauges_plan', 'gauges_projects', 'lifetime', 3, 'hard', NULL),
	('gauges_plan', 'gauges_free', 'lifetime', NULL, 'hard', NULL),
	('gauges_plan', 'gauges_calls', 'month', 5, 'hard', NULL),
	('gauges_plan', 'gauges_export', 'lifetime', NULL, 'hard', NULL);
SELECT md5('gauges ann')::uuid AS ann, md5('gauges ben')::uuid AS ben, md5('gauges cat')::uuid AS cat,
	md5('gauges dan')::uuid AS dan, md5('gauges eve')::uuid AS eve, md5('gauges fay')::uuid AS fay,
	md5('gauges gus')::uuid AS gus, md5('gauges hal')::uuid AS hal, md5('gauges team')::uuid AS team \gset
INSERT INTO subscriptions (user_id, plan)
	SELECT u, 'gauges_plan' FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus', :'hal']::uuid[]) AS u;

\set moved 'allowed, reason, trim_scale(granted) AS granted, trim_scale(bonus_used) AS bonus_used, trim_scale(overage) AS overage, trim_scale(cost) AS cost, trim_scale(used) AS used, trim_scale(remaining) AS remaining'

CREATE FUNCTION pg_temp.name_of(p_user_id uuid) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce((SELECT n FROM unnest(ARRAY['ann', 'ben', 'cat', 'dan', 'eve', 'fay', 'gus', 'hal', 'team', 'nobody']) AS n
		WHERE md5('gauges ' || n)::uuid = p_user_id), '?')
$$;
CREATE FUNCTION pg_temp.levels(p_metric text, OUT name text, OUT used numeric, OUT bonus_used numeric, OUT overage numeric, OUT cost numeric)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT pg_temp.name_of(t.user_id), trim_scale(t.used), trim_scale(t.bonus_used), trim_scale(t.overage), trim_scale(t.cost)
		FROM quota.usage_tracking t WHERE t.metric = p_metric ORDER BY 1
$$;
CREATE FUNCTION pg_temp.ledger(p_user_id uuid, p_metric text, OUT kind text, OUT amount numeric, OUT bonus_used numeric, OUT overage numeric,
	OUT cost numeric, OUT requested numeric) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT e.kind, trim_scale(e.amount), trim_scale(e.bonus_used), trim_scale(e.overage), trim_scale(e.cost), trim_scale(e.requested)
		FROM quota.usage_events e WHERE e.user_id = p_user_id AND e.metric = p_metric ORDER BY e.created_at, e.kind, e.amount
$$;

-- Acquire and release -------------------------------------------------------------------

SELECT :moved FROM check_and_consume_quota(:'ann', 'gauges_seats', 2);
SELECT allowed, remaining, limit_amount, bonus_used, already_processed, reason, metric, period, used, bonus_remaining, overage, cost,
	resets_at, retry_after, event_id IS NOT NULL AS has_event, binding_user_id = :'ann' AS binds, granted, reservation_id, shortfall
	FROM release_quota(:'ann', 'gauges_chairs')
\gx
SET quota.test_clock = '2026-03-10 12:01:00+00';
-- no more than there is: 5 released of 1
SELECT :moved FROM release_quota(:'ann', 'gauges_seats', 5);
SET quota.test_clock = '2026-03-10 12:02:00+00';
-- and nothing of nothing
SELECT :moved FROM release_quota(:'ann', 'gauges_seats', 5);
SELECT :moved FROM release_quota(:'ben', 'gauges_seats', 1);
SELECT kind, amount, requested FROM pg_temp.ledger(:'ann', 'gauges_seats') WHERE amount <> 0;
SELECT attempted_amount, success, reason, plan_limit, current_usage, remaining, period, action FROM quota_audit_log
	WHERE user_id = :'ann' ORDER BY created_at, action;
-- room that was given back is room; fractions stay exact
SELECT :moved FROM check_and_consume_quota(:'ann', 'gauges_seats', 3);
SELECT :moved FROM release_quota(:'ann', 'gauges_seats', 0.2);
SELECT allowed, reason FROM check_and_consume_quota(:'ann', 'gauges_seats', 0.200001);
SELECT :moved FROM check_and_consume_quota(:'ann', 'gauges_seats', 0.2);

-- A level does not start again at the end of a period
SELECT :moved FROM check_and_consume_quota(:'ann', 'gauges_monthly', 3);
SET quota.test_clock = '2026-04-20 12:00:00+00';
SELECT allowed, reason, used, remaining, retry_after FROM check_and_consume_quota(:'ann', 'gauges_monthly', 1);
SELECT :moved FROM release_quota(:'ann', 'gauges_monthly', 2);
SELECT count(*) FROM usage_history WHERE user_id = :'ann';

-- Without a limit, and with none in the plan
SELECT :moved FROM check_and_consume_quota(:'ann', 'gauges_free', 7);
SELECT :moved FROM release_quota(:'ann', 'gauges_free', 8);
SELECT granted, used, remaining FROM release_quota(:'ann', 'gauges_unlisted', 8);
SELECT allowed, reason, granted FROM set_gauge(:'ann', 'gauges_unlisted', 8);
SELECT count(*) FROM usage_tracking WHERE metric = 'gauges_unlisted';

-- Last source first: overage, bonuses, allowance ----------------------------------------

SET quota.test_clock = '2026-03-10 12:00:00+00';
SELECT grant_bonus(:'ben', 'gauges_soft', 3, NULL, 'A') IS NOT NULL AS granted;
-- 7 = 2 allowance + 3 bonus + 2 overage at 10
SELECT :moved FROM check_and_consume_quota(:'ben', 'gauges_soft', 7);
SET quota.test_clock = '2026-03-10 12:01:00+00';
SELECT :moved FROM release_quota(:'ben', 'gauges_soft', 1);
SET quota.test_clock = '2026-03-10 12:02:00+00';
SELECT :moved FROM release_quota(:'ben', 'gauges_soft', 2);
SET quota.test_clock = '2026-03-10 12:03:00+00';
SELECT :moved FROM release_quota(:'ben', 'gauges_soft', 3);
SET quota.test_clock = '2026-03-10 12:04:00+00';
SELECT :moved, bonus_remaining FROM check_and_consume_quota(:'ben', 'gauges_soft', 4);
SET quota.test_clock = '2026-03-10 12:05:00+00';
SELECT :moved, bonus_remaining FROM set_gauge(:'ben', 'gauges_soft', 1.5, 'counted');
SELECT * FROM pg_temp.ledger(:'ben', 'gauges_soft');
SELECT * FROM pg_temp.levels('gauges_soft');
SELECT amount, used_amount FROM user_bonuses WHERE user_id = :'ben';

-- Set to a value: a fact, never denied ----------------------------------------------------

SELECT :moved FROM set_gauge(:'cat', 'gauges_seats', 2);
SET quota.test_clock = '2026-03-10 12:06:00+00';
SELECT :moved, already_processed, event_id IS NOT NULL AS has_event FROM set_gauge(:'cat', 'gauges_chairs', 5, 'as counted');
SELECT allowed, reason, used, remaining, retry_after FROM check_and_consume_quota(:'cat', 'gauges_seats', 1);
SET quota.test_clock = '2026-03-10 12:07:00+00';
SELECT :moved FROM set_gauge(:'cat', 'gauges_seats', 5);
SET quota.test_clock = '2026-03-10 12:08:00+00';
SELECT :moved FROM release_quota(:'cat', 'gauges_seats', 3);
SET quota.test_clock = '2026-03-10 12:09:00+00';
SELECT :moved FROM set_gauge(:'cat', 'gauges_seats', 0);
SELECT kind, amount FROM pg_temp.ledger(:'cat', 'gauges_seats') WHERE amount <> 0;
SELECT metadata FROM usage_events WHERE user_id = :'cat' AND metadata IS NOT NULL;
SELECT success, reason, current_usage, remaining, action FROM quota_audit_log WHERE user_id = :'cat' AND action = 'set_gauge' ORDER BY created_at LIMIT 2;

-- A limit lowered below what is used blocks growth only --------------------------------------

SELECT allowed FROM check_and_consume_quota(:'dan', 'gauges_seats', 3);
SELECT set_limit_override(:'dan', 'gauges_seats', 1);
SELECT allowed, reason, used, remaining, limit_amount, retry_after FROM check_and_consume_quota(:'dan', 'gauges_seats', 1);
SELECT metric, used, limit_amount, remaining, severity FROM get_user_quota_status(:'dan') WHERE metric = 'gauges_seats';
SELECT :moved, limit_amount FROM release_quota(:'dan', 'gauges_seats', 1);
SELECT allowed, reason, used, remaining FROM check_and_consume_quota(:'dan', 'gauges_seats', 1);
SELECT :moved FROM release_quota(:'dan', 'gauges_seats', 2);
SELECT :moved FROM check_and_consume_quota(:'dan', 'gauges_seats', 1);
SELECT allowed, reason FROM check_and_consume_quota(:'dan', 'gauges_seats', 1);
-- also down to nothing at all, and where the plan does not list it any more: what was acquired can be given back
SELECT set_limit_override(:'dan', 'gauges_seats', 0);
SELECT granted FROM release_quota(:'dan', 'gauges_seats', 0.25);
SELECT clear_limit_override(:'dan', 'gauges_seats');
SELECT used, remaining FROM check_quota(:'dan', 'gauges_seats');
SELECT assign_plan(:'dan', 'gauges_none');
SELECT allowed, reason FROM check_and_consume_quota(:'dan', 'gauges_seats', 0.25);
SELECT allowed, reason, granted FROM release_quota(:'dan', 'gauges_seats', 0.25);
SELECT granted FROM release_quota(:'dan', 'gauges_seats', 9);
SELECT granted FROM release_quota(:'dan', 'gauges_seats', 9);
SELECT assign_plan(:'dan', 'gauges_plan');
SELECT trim_scale(used) AS used, trim_scale(remaining) AS remaining FROM check_quota(:'dan', 'gauges_seats');

-- Refund of an acquisition -----------------------------------------------------------------------

SELECT event_id AS e FROM check_and_consume_quota(:'eve', 'gauges_seats', 3) \gset
SELECT :moved FROM refund_quota(:'e', 1);
SELECT granted FROM release_quota(:'eve', 'gauges_seats', 1);
-- 2 of it are left, but only 1 is still there
SELECT refund_quota(:'e', 2);
SELECT :moved FROM refund_quota(:'e', 1);

-- Keys -------------------------------------------------------------------------------------------------

SELECT allowed FROM check_and_consume_quota(:'eve', 'gauges_seats', 3, 'acquire');
SELECT :moved, already_processed FROM release_quota(:'eve', 'gauges_seats', 1, 'release');
SELECT :moved, already_processed FROM release_quota(:'eve', 'gauges_seats', 1, 'release');
SELECT allowed, reason FROM release_quota(:'eve', 'gauges_seats', 2, 'release');
SELECT allowed, reason FROM check_and_consume_quota(:'eve', 'gauges_seats', 1, 'release');
SELECT allowed, reason FROM release_quota(:'eve', 'gauges_seats', 3, 'acquire');
-- one that gave back less than it asked for is the same request, too
SELECT :moved, already_processed FROM release_quota(:'eve', 'gauges_seats', 9, 'all');
SELECT :moved, already_processed FROM release_quota(:'eve', 'gauges_seats', 9, 'all', '{"try": 2}');
SELECT used, remaining FROM check_quota(:'eve', 'gauges_seats');

-- Rows of a table: enforce_quota ------------------------------------------------------------------------

CREATE TEMP TABLE files (id integer PRIMARY KEY, owner uuid, size numeric);
CREATE TRIGGER quota AFTER INSERT OR UPDATE OR DELETE ON files FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_storage', 'owner', 'size');
CREATE TEMP VIEW files_by_owner AS
	SELECT pg_temp.name_of(owner) AS name, count(*) AS files, sum(size) AS size FROM files GROUP BY owner ORDER BY 1;
\set levels 'SELECT l.name, l.used, f.size FROM pg_temp.levels(''gauges_storage'') l LEFT JOIN files_by_owner f USING (name);'
INSERT INTO files VALUES (1, :'ann', 4), (2, :'ann', 3.5);
INSERT INTO files VALUES (3, :'ann', 2.5);
:levels
-- no room: the row is not there, nor its charge
INSERT INTO files VALUES (4, :'ann', 0.000001);
-- of several rows of a statement none is
INSERT INTO files VALUES (5, :'ben', 6), (6, :'ben', 4), (7, :'ben', 1);
:levels
-- what is in the message
\set VERBOSITY default
INSERT INTO files VALUES (4, :'ann', 1);
\set VERBOSITY sqlstate
-- the transaction may go on after a savepoint
BEGIN;
INSERT INTO files VALUES (5, :'ben', 6);
SAVEPOINT s;
INSERT INTO files VALUES (6, :'ben', 5);
ROLLBACK TO s;
INSERT INTO files VALUES (6, :'ben', 4);
COMMIT;
:levels
-- and if it does not, the charge goes with the rows
BEGIN;
DELETE FROM files WHERE id = 5;
INSERT INTO files VALUES (7, :'ben', 1);
ROLLBACK;
:levels
-- amount up and down
UPDATE files SET size = 3 WHERE id = 5;
UPDATE files SET size = size + 3 WHERE id = 5;
UPDATE files SET size = size + 0.5 WHERE id = 5;
UPDATE files SET size = size + 0.5 WHERE owner = :'ben';
:levels
-- neither: nothing is charged
SELECT count(*) AS before FROM usage_events \gset
UPDATE files SET id = id + 100 WHERE id = 5;
UPDATE files SET owner = owner, size = size;
SELECT count(*) - :before AS events FROM usage_events;
-- owner: ann has 10, ben 10, cat nothing
UPDATE files SET owner = :'cat' WHERE id = 1;
:levels
-- to one who has no room: neither of them is charged
UPDATE files SET owner = :'ben' WHERE id = 2;
:levels
-- owner and amount: up, down, too much, away and back
UPDATE files SET owner = :'cat', size = 5 WHERE id = 2;
UPDATE files SET owner = :'ann', size = 1 WHERE id = 1;
UPDATE files SET owner = :'cat', size = 6 WHERE id = 1;
:levels
-- two owners change places in one statement: each row needs room of its own
UPDATE files SET owner = CASE owner WHEN :'ann' THEN :'cat'::uuid ELSE :'ann'::uuid END WHERE id IN (2, 3);
:levels
-- nobody's rows and rows of nothing do not count
INSERT INTO files VALUES (8, NULL, 100), (9, :'ann', NULL), (10, :'ann', 0);
:levels
UPDATE files SET owner = :'ann', size = 2 WHERE id = 8;
UPDATE files SET size = 0.5 WHERE id IN (9, 10);
:levels
UPDATE files SET owner = NULL WHERE id = 8;
UPDATE files SET size = NULL WHERE id = 9;
UPDATE files SET size = 0 WHERE id = 10;
:levels
UPDATE files SET owner = NULL, size = 50 WHERE id = 8;
DELETE FROM files WHERE id IN (8, 9, 10);
:levels
-- delete
DELETE FROM files WHERE id = 105;
DELETE FROM files WHERE owner = :'cat';
:levels
-- what cannot be an amount
INSERT INTO files VALUES (11, :'ann', -1);
INSERT INTO files VALUES (11, :'ann', 'NaN');
INSERT INTO files VALUES (11, :'ann', 'Infinity');
INSERT INTO files VALUES (11, :'ann', 0.0000001);
UPDATE files SET size = -1 WHERE owner = :'ann';
-- whoever has no plan has no room, and a bonus is room
INSERT INTO files VALUES (11, md5('gauges nobody')::uuid, 1);
SELECT grant_bonus(:'fay', 'gauges_storage', 5) IS NOT NULL AS granted;
INSERT INTO files VALUES (12, :'fay', 12);
UPDATE files SET size = 15.5 WHERE id = 12;
UPDATE files SET size = 15 WHERE id = 12;
SELECT * FROM pg_temp.levels('gauges_storage') WHERE name = 'fay';
UPDATE files SET size = 11 WHERE id = 12;
SELECT * FROM pg_temp.levels('gauges_storage') WHERE name = 'fay';
DELETE FROM files WHERE id = 12;
SELECT * FROM pg_temp.levels('gauges_storage') WHERE name = 'fay';
-- a limit lowered below what is there: rows may shrink and go
INSERT INTO files VALUES (13, :'gus', 6), (14, :'gus', 3);
SELECT set_limit_override(:'gus', 'gauges_storage', 2);
INSERT INTO files VALUES (15, :'gus', 0.5);
UPDATE files SET size = 7 WHERE id = 13;
UPDATE files SET size = 5 WHERE id = 13;
DELETE FROM files WHERE id = 14;
UPDATE files SET owner = :'hal' WHERE id = 13;
INSERT INTO files VALUES (15, :'gus', 2);
:levels
-- other ways to write
INSERT INTO files VALUES (15, :'gus', 2) ON CONFLICT (id) DO UPDATE SET size = files.size - 1;
INSERT INTO files VALUES (15, :'gus', 9) ON CONFLICT DO NOTHING;
MERGE INTO files USING (VALUES (15, 0.5), (16, 1.5)) AS v (id, size) ON files.id = v.id
	WHEN MATCHED THEN UPDATE SET size = v.size WHEN NOT MATCHED THEN INSERT VALUES (v.id, :'gus', v.size);
INSERT INTO files VALUES (17, :'gus', 0.000001);
COPY files FROM stdin;
18	\N	3
\.
:levels

-- Rows that count one each; the trigger may come before the row, and name the metric by an alias
CREATE TEMP TABLE projects (id integer, owner uuid);
CREATE TRIGGER quota BEFORE INSERT OR UPDATE OR DELETE ON projects FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_projects', 'owner');
INSERT INTO projects SELECT i, :'ann' FROM generate_series(1, 3) AS i;
INSERT INTO projects VALUES (4, :'ann');
INSERT INTO projects VALUES (5, :'ben');
UPDATE projects SET owner = :'ben' WHERE id = 1;
DELETE FROM projects WHERE id = 2;
SELECT * FROM pg_temp.levels('gauges_projects');
SELECT pg_temp.name_of(owner) AS name, count(*) FROM projects GROUP BY 1 ORDER BY 1;
CREATE TEMP TABLE chairs (owner uuid, n smallint);
CREATE TRIGGER quota AFTER INSERT OR UPDATE OR DELETE ON chairs FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_chairs', 'owner', 'n');
INSERT INTO chairs VALUES (:'gus', 2);
INSERT INTO chairs VALUES (:'gus', 2);
UPDATE chairs SET n = 3;
DELETE FROM chairs;
SELECT kind, amount FROM pg_temp.ledger(:'gus', 'gauges_seats');

-- A counter counts what comes and keeps what it has counted
CREATE TEMP TABLE letters (id integer, sender uuid, sheets integer);
CREATE TRIGGER quota AFTER INSERT OR UPDATE OR DELETE ON letters FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_calls', 'sender', 'sheets');
INSERT INTO letters VALUES (1, :'ann', 2), (2, :'ann', 1);
UPDATE letters SET sheets = 1 WHERE id = 1;
UPDATE letters SET sheets = 2 WHERE id = 2;
DELETE FROM letters WHERE id = 1;
UPDATE letters SET sender = :'ben' WHERE id = 2;
SELECT * FROM pg_temp.levels('gauges_calls');
INSERT INTO letters VALUES (3, :'ann', 2);
INSERT INTO letters VALUES (3, :'ann', 1);

-- Parents are charged along: two members move a row between them, which does not concern the team
INSERT INTO subscriptions (user_id, plan) VALUES (:'team', 'gauges_plan');
UPDATE subscriptions SET parent = :'team' WHERE user_id IN (:'eve', :'fay');
DELETE FROM files;
INSERT INTO files VALUES (1, :'eve', 6), (2, :'fay', 4);
:levels
INSERT INTO files VALUES (3, :'fay', 1);
UPDATE files SET owner = :'fay' WHERE id = 1;
:levels
DELETE FROM files WHERE id = 2;
:levels

-- Without a plan rows can still go, and come where they count for nothing
BEGIN;
INSERT INTO files VALUES (30, :'hal', 1);
SELECT assign_plan(:'hal', 'gauges_none');
DELETE FROM files WHERE id = 30;
SELECT * FROM pg_temp.levels('gauges_storage') WHERE name = 'hal';
INSERT INTO files VALUES (30, :'hal', 0);
SAVEPOINT s;
INSERT INTO files VALUES (31, :'hal', 1);
ROLLBACK;

-- Triggers that cannot work
CREATE TEMP TABLE wrong (owner uuid, name text, ratio double precision, n integer);
CREATE FUNCTION pg_temp.wrong(p_trigger text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'CREATE TRIGGER wrong ' || p_trigger;
	INSERT INTO wrong VALUES (md5('gauges hal')::uuid, 'x', 1, 1);
	RAISE EXCEPTION 'works' USING ERRCODE = '00001';
EXCEPTION WHEN OTHERS THEN
	RETURN CASE SQLSTATE WHEN '00001' THEN 'no error' ELSE SQLSTATE END;
END
$$;
SELECT t, pg_temp.wrong(t) AS sqlstate FROM unnest(ARRAY[
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seats', 'owner')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seats', 'owner', 'n')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota()$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seats')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seats', 'owner', 'n', 'n')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seat', 'owner')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('', 'owner')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seats', 'user_id')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seats', 'ctid')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seats', 'name')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seats', 'owner', 'size')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seats', 'owner', 'name')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seats', 'owner', 'ratio')$$,
		$$AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_export', 'owner')$$,
		$$AFTER INSERT ON wrong EXECUTE FUNCTION quota.enforce_quota('gauges_seats', 'owner')$$,
		$$AFTER TRUNCATE ON wrong FOR EACH STATEMENT EXECUTE FUNCTION quota.enforce_quota('gauges_seats', 'owner')$$,
		$$AFTER DELETE ON wrong FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_seat', 'owner')$$]) AS t;
SELECT quota.enforce_quota();

-- Counted again from the table: reconcile_gauge --------------------------------------------------------------

-- the rows of the trigger are right
SELECT pg_temp.name_of(user_id) AS name, recorded, counted, drift FROM reconcile_gauge('gauges_storage', 'files', 'owner', 'size');
SELECT pg_temp.name_of(user_id) AS name, recorded, counted, drift FROM reconcile_gauge('gauges_projects', 'projects', 'owner');
-- rows that came without it, and went
ALTER TABLE files DISABLE TRIGGER quota;
DELETE FROM files WHERE id = 1;
INSERT INTO files VALUES (20, :'ann', 1.5), (21, :'ann', 20), (22, :'hal', 3), (23, NULL, 9), (24, :'fay', NULL), (25, :'ben', 0);
ALTER TABLE files ENABLE TRIGGER quota;
SELECT allowed FROM check_and_consume_quota(:'cat', 'gauges_storage', 2);
SELECT count(*) AS before FROM usage_events \gset
SELECT pg_temp.name_of(user_id) AS name, trim_scale(recorded) AS recorded, trim_scale(counted) AS counted, trim_scale(drift) AS drift
	FROM reconcile_gauge('gauges_storage', 'files', 'owner', 'size') ORDER BY 1;
SELECT count(*) - :before AS events FROM usage_events;
-- in the order of the subjects' ids
SELECT count(*), array_agg(user_id) = array_agg(user_id ORDER BY user_id) AS in_order FROM reconcile_gauge('gauges_storage', 'files', 'owner', 'size');
SELECT pg_temp.name_of(user_id) AS name, trim_scale(recorded) AS recorded, trim_scale(counted) AS counted, trim_scale(drift) AS drift
	FROM reconcile_gauge('gauges_storage', 'files', 'owner', 'size', true) ORDER BY 1;
SELECT l.name, used + bonus_used + overage AS level, f.size FROM pg_temp.levels('gauges_storage') l LEFT JOIN files_by_owner f USING (name);
SELECT pg_temp.name_of(user_id) AS name, recorded, counted, drift FROM reconcile_gauge('gauges_storage', 'files', 'owner', 'size', true);
SELECT action, count(*) FROM quota_audit_log WHERE metric = 'gauges_storage' AND action = 'set_gauge' GROUP BY action;
SELECT pg_temp.name_of(user_id) AS name, kind, trim_scale(amount) AS amount, metadata FROM usage_events
	WHERE metric = 'gauges_storage' AND kind = 'set_gauge' ORDER BY 1, 3;
-- members and their team: set once each, whatever the order of their ids
ALTER TABLE files DISABLE TRIGGER quota;
DELETE FROM files;
INSERT INTO files VALUES (1, :'eve', 2), (2, :'fay', 3), (3, :'team', 1);
ALTER TABLE files ENABLE TRIGGER quota;
UPDATE subscriptions SET parent = :'fay' WHERE user_id = :'eve';
SELECT pg_temp.name_of(user_id) AS name, trim_scale(recorded) AS recorded, trim_scale(counted) AS counted, trim_scale(drift) AS drift
	FROM reconcile_gauge('gauges_storage', 'files', 'owner', 'size', true) ORDER BY 1;
SELECT name, used FROM pg_temp.levels('gauges_storage') WHERE used <> 0;
SELECT count(*) FROM reconcile_gauge('gauges_storage', 'files', 'owner', 'size');
-- whoever has no limit has no gauge: a member without a plan counts for the team, a row that counts nowhere is told
INSERT INTO subscriptions (user_id, plan, parent) VALUES (md5('gauges nobody')::uuid, NULL, :'team');
ALTER TABLE files DISABLE TRIGGER quota;
INSERT INTO files VALUES (4, md5('gauges nobody')::uuid, 0.5), (5, md5('gauges stranger')::uuid, 0.25);
ALTER TABLE files ENABLE TRIGGER quota;
SELECT pg_temp.name_of(user_id) AS name, trim_scale(recorded) AS recorded, trim_scale(counted) AS counted, trim_scale(drift) AS drift
	FROM reconcile_gauge('gauges_storage', 'files', 'owner', 'size', true) ORDER BY 1;
SELECT name, used FROM pg_temp.levels('gauges_storage') WHERE used <> 0;
DELETE FROM files WHERE id = 5;
-- a view, a partitioned table, names that need quotes, the default name of the column
-- (0.5 of the member without a plan become 1 here)
CREATE TEMP VIEW "My Files" AS SELECT owner AS user_id, size::bigint AS "Größe" FROM files;
SELECT count(*) FROM reconcile_gauge('gauges_storage', '"My Files"', p_amount_column => 'Größe');
CREATE TEMP TABLE parts (user_id uuid, n integer) PARTITION BY LIST (n);
CREATE TEMP TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TEMP TABLE part_2 PARTITION OF parts FOR VALUES IN (2);
CREATE TRIGGER quota AFTER INSERT OR UPDATE OR DELETE ON parts FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('gauges_free', 'user_id', 'n');
INSERT INTO parts VALUES (:'ann', 1), (:'ann', 2), (:'ben', 2);
-- a row that moves to another partition
UPDATE parts SET n = 2 WHERE user_id = :'ann' AND n = 1;
SELECT pg_temp.name_of(user_id) AS name, recorded, counted, drift FROM reconcile_gauge('gauges_free', 'parts', p_amount_column => 'n');
SELECT pg_temp.name_of(user_id) AS name, recorded, counted, drift FROM reconcile_gauge('gauges_free', 'parts') ORDER BY 1;
-- what bonuses and overage pay for is counted, too
SELECT allowed FROM check_and_consume_quota(:'ben', 'gauges_soft', 6.5);
CREATE TEMP TABLE soft AS SELECT :'ben'::uuid AS user_id, i FROM generate_series(1, 7) AS i;
SELECT pg_temp.name_of(user_id) AS name, trim_scale(recorded) AS recorded, counted, trim_scale(drift) AS drift FROM reconcile_gauge('gauges_soft', 'soft', p_apply => true);
SELECT * FROM pg_temp.levels('gauges_soft');
-- in all isolation levels; but the count of a snapshot is not set to where newer rows may have been counted
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO soft VALUES (:'ben');
SELECT trim_scale(recorded) AS recorded, counted, trim_scale(drift) AS drift FROM reconcile_gauge('gauges_soft', 'soft', p_apply => true);
SELECT count(*) FROM reconcile_gauge('gauges_soft', 'soft');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SET LOCAL quota.isolation = 'latest';
SELECT count(*) FROM reconcile_gauge('gauges_soft', 'soft');
SELECT count(*) FROM reconcile_gauge('gauges_soft', 'soft', p_apply => true);
ROLLBACK;

-- Run as whoever calls it: what the caller may not read is not counted
CREATE ROLE regress_quota_gauges;
SELECT grant_access('regress_quota_gauges', 'admin');
CREATE SCHEMA gauges_private;
CREATE TABLE gauges_private.seats (user_id uuid, tenant integer);
INSERT INTO gauges_private.seats SELECT :'ann', i FROM generate_series(1, 4) AS i;
SET ROLE regress_quota_gauges;
SELECT count(*) FROM quota.reconcile_gauge('gauges_seats', (SELECT oid FROM pg_class WHERE relname = 'seats' AND relnamespace = 'gauges_private'::regnamespace)::regclass);
RESET ROLE;
GRANT USAGE ON SCHEMA gauges_private TO regress_quota_gauges;
GRANT SELECT ON gauges_private.seats TO regress_quota_gauges;
SET ROLE regress_quota_gauges;
SELECT user_id = :'ann' AS ann, trim_scale(recorded) AS recorded, counted, trim_scale(drift) AS drift FROM quota.reconcile_gauge('gauges_seats', 'gauges_private.seats') WHERE counted > 0;
-- setting needs a lock that keeps rows from coming and going meanwhile
SELECT count(*) FROM quota.reconcile_gauge('gauges_seats', 'gauges_private.seats', p_apply => true);
RESET ROLE;
GRANT UPDATE ON gauges_private.seats TO regress_quota_gauges;
BEGIN;
SET LOCAL ROLE regress_quota_gauges;
SELECT count(*) > 0 AS applied FROM quota.reconcile_gauge('gauges_seats', 'gauges_private.seats', p_apply => true);
SELECT count(*) FROM quota.reconcile_gauge('gauges_seats', 'gauges_private.seats');
ROLLBACK;
-- rows that are hidden from the caller would be missing in the count, so it does not count
ALTER TABLE gauges_private.seats ENABLE ROW LEVEL SECURITY;
CREATE POLICY one ON gauges_private.seats USING (tenant = 1);
SET ROLE regress_quota_gauges;
SELECT count(*) FROM gauges_private.seats;
SELECT count(*) FROM quota.reconcile_gauge('gauges_seats', 'gauges_private.seats');
RESET ROLE;
DROP SCHEMA gauges_private CASCADE;
DROP OWNED BY regress_quota_gauges;
DROP ROLE regress_quota_gauges;

-- What cannot be asked ------------------------------------------------------------------------------------------

CREATE FUNCTION pg_temp.sqlstate_of(p_call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SELECT ' || p_call USING md5('gauges ann')::uuid;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
CREATE SEQUENCE pg_temp.numbers;
SELECT count(*) AS before FROM usage_events \gset
SELECT count(*) AS log_before FROM quota_audit_log \gset
SELECT call, pg_temp.sqlstate_of(call) AS sqlstate FROM unnest(ARRAY[
		$$release_quota(NULL, 'gauges_seats')$$, $$release_quota($1, NULL)$$, $$release_quota($1, '')$$, $$release_quota($1, 'gauges_seat')$$,
		$$release_quota($1, 'gauges_calls')$$, $$release_quota($1, 'gauges_export')$$,
		$$release_quota($1, 'gauges_seats', NULL)$$, $$release_quota($1, 'gauges_seats', 0)$$, $$release_quota($1, 'gauges_seats', -1)$$,
		$$release_quota($1, 'gauges_seats', 'NaN')$$, $$release_quota($1, 'gauges_seats', 'Infinity')$$, $$release_quota($1, 'gauges_seats', '-Infinity')$$,
		$$release_quota($1, 'gauges_seats', 1e-7)$$, $$release_quota($1, 'gauges_seats', 1e18)$$,
		$$release_quota($1, 'gauges_seats', 1, '')$$, $$release_quota($1, 'gauges_seats', 1, NULL, '[]')$$,
		$$release_quota($1, 'gauges_seats', 1, NULL, jsonb_build_object('a', repeat('x', 65536)))$$,
		$$set_gauge(NULL, 'gauges_seats', 1)$$, $$set_gauge($1, NULL, 1)$$, $$set_gauge($1, '', 1)$$, $$set_gauge($1, 'gauges_seat', 1)$$,
		$$set_gauge($1, 'gauges_calls', 1)$$, $$set_gauge($1, 'gauges_export', 1)$$,
		$$set_gauge($1, 'gauges_seats', NULL)$$, $$set_gauge($1, 'gauges_seats', -1)$$, $$set_gauge($1, 'gauges_seats', -0.000001)$$,
		$$set_gauge($1, 'gauges_seats', 'NaN')$$, $$set_gauge($1, 'gauges_seats', 'Infinity')$$, $$set_gauge($1, 'gauges_seats', 1e-7)$$,
		$$set_gauge($1, 'gauges_seats', 1e18)$$,
		$$reconcile_gauge(NULL, 'files', 'owner')$$, $$reconcile_gauge('', 'files', 'owner')$$, $$reconcile_gauge('gauges_seat', 'files', 'owner')$$,
		$$reconcile_gauge('gauges_calls', 'files', 'owner')$$, $$reconcile_gauge('gauges_export', 'files', 'owner')$$,
		$$reconcile_gauge('gauges_seats', NULL, 'owner')$$, $$reconcile_gauge('gauges_seats', 'no_such_table', 'owner')$$, $$reconcile_gauge('gauges_seats', 0, 'owner')$$,
		$$reconcile_gauge('gauges_seats', 'numbers', 'last_value')$$, $$reconcile_gauge('gauges_seats', 'files_pkey', 'id')$$,
		$$reconcile_gauge('gauges_seats', 'files')$$, $$reconcile_gauge('gauges_seats', 'files', NULL)$$, $$reconcile_gauge('gauges_seats', 'files', '')$$,
		$$reconcile_gauge('gauges_seats', 'files', 'OWNER')$$, $$reconcile_gauge('gauges_seats', 'files', 'ctid')$$, $$reconcile_gauge('gauges_seats', 'files', 'id')$$,
		$$reconcile_gauge('gauges_seats', 'files', 'owner', 'amount')$$, $$reconcile_gauge('gauges_seats', 'files', 'owner', '')$$,
		$$reconcile_gauge('gauges_seats', 'files', 'owner', 'owner')$$, $$reconcile_gauge('gauges_seats', 'wrong', 'owner', 'ratio')$$,
		$$reconcile_gauge('gauges_seats', 'wrong', 'owner', 'name')$$, $$reconcile_gauge('gauges_seats', 'files', 'owner; DROP TABLE files')$$,
		$$count(*) FROM reconcile_gauge('gauges_chairs', 'wrong', 'owner', 'n', NULL)$$])
	WITH ORDINALITY AS u (call, n) ORDER BY n;
SELECT count(*) - :before AS events FROM usage_events;
SELECT count(*) - :log_before AS log FROM quota_audit_log;
BEGIN READ ONLY;
SELECT release_quota(:'ann', 'gauges_seats');
ROLLBACK;
BEGIN READ ONLY;
SELECT set_gauge(:'ann', 'gauges_seats', 1);
ROLLBACK;

-- The books --------------------------------------------------------------------------------------------------------

SELECT v.metric, v.period, counter, recorded, expected
	FROM unnest(ARRAY[:'ann', :'ben', :'cat', :'dan', :'eve', :'fay', :'gus', :'hal', :'team']::uuid[]) AS u, verify_ledger(u) AS v;

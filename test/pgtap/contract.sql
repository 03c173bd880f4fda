-- The contract: names, signatures, columns, errors and rights that other
-- people's calls depend on.  What is listed here may be added to at the end,
-- and is never renamed, reordered or taken away.
\set ON_ERROR_STOP 1
\pset format unaligned
\pset tuples_only true
\pset pager off

BEGIN;
SET search_path = public, pg_catalog;
SET client_min_messages = warning;
SELECT plan(448);

-- Extension --------------------------------------------------------------------

SELECT has_extension('quota');
SELECT has_schema('quota');
SELECT is((SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'quota'), 'quota', 'the extension lives in schema quota');
SELECT is((SELECT count(*)::int FROM pg_depend d JOIN pg_extension q ON q.oid = d.objid AND d.classid = 'pg_extension'::regclass
		JOIN pg_extension p ON p.oid = d.refobjid WHERE q.extname = 'quota' AND p.extname = 'pgcrypto'), 1, 'it requires pgcrypto');

-- The outcome ---------------------------------------------------------------------

SELECT has_composite('quota', 'outcome', 'type quota.outcome');
SELECT results_eq(
	$$SELECT attname::text COLLATE "C", format_type(atttypid, atttypmod) COLLATE "C" FROM pg_attribute
		WHERE attrelid = 'quota.outcome'::regclass AND attnum BETWEEN 1 AND 20 ORDER BY attnum$$,
	$$VALUES ('allowed' COLLATE "C", 'boolean' COLLATE "C"), ('remaining', 'numeric'), ('limit_amount', 'numeric'), ('bonus_used', 'numeric'),
		('already_processed', 'boolean'), ('reason', 'text'), ('metric', 'text'), ('period', 'text'), ('used', 'numeric'),
		('bonus_remaining', 'numeric'), ('overage', 'numeric'), ('cost', 'numeric'), ('period_start', 'timestamp with time zone'),
		('resets_at', 'timestamp with time zone'), ('retry_after', 'interval'), ('event_id', 'uuid'), ('binding_user_id', 'uuid'), ('granted', 'numeric'),
		('reservation_id', 'uuid'), ('shortfall', 'numeric')$$,
	'columns of the outcome, in order');

-- Functions: arguments with names and defaults, results, volatility ----------------------

CREATE TEMP TABLE contract (name text, arguments text, result text, volatility "char");
INSERT INTO contract VALUES
	('check_and_consume_quota', 'p_user_id uuid, p_metric text, p_amount numeric DEFAULT 1, p_idempotency_key text DEFAULT NULL::text, p_metadata jsonb DEFAULT NULL::jsonb', 'quota.outcome', 'v'),
	('require_quota', 'p_user_id uuid, p_metric text, p_amount numeric DEFAULT 1, p_idempotency_key text DEFAULT NULL::text, p_metadata jsonb DEFAULT NULL::jsonb', 'quota.outcome', 'v'),
	('consume_up_to', 'p_user_id uuid, p_metric text, p_amount numeric, p_idempotency_key text DEFAULT NULL::text, p_metadata jsonb DEFAULT NULL::jsonb', 'quota.outcome', 'v'),
	('consume_quotas', 'p_user_id uuid, p_requests jsonb, p_idempotency_key text DEFAULT NULL::text, p_metadata jsonb DEFAULT NULL::jsonb', 'SETOF quota.outcome', 'v'),
	('consume_quota_batch', 'p_user_ids uuid[], p_metrics text[], p_amounts numeric[] DEFAULT NULL::numeric[], p_idempotency_keys text[] DEFAULT NULL::text[]', 'SETOF quota.outcome', 'v'),
	('reserve_quota', 'p_user_id uuid, p_metric text, p_amount numeric DEFAULT 1, p_ttl interval DEFAULT ''00:05:00''::interval, p_idempotency_key text DEFAULT NULL::text, p_metadata jsonb DEFAULT NULL::jsonb', 'quota.outcome', 'v'),
	('settle_reservation', 'p_reservation_id uuid, p_actual numeric DEFAULT NULL::numeric', 'quota.outcome', 'v'),
	('cancel_reservation', 'p_reservation_id uuid', 'quota.outcome', 'v'),
	('refund_quota', 'p_event_id uuid, p_amount numeric DEFAULT NULL::numeric, p_reason text DEFAULT NULL::text', 'quota.outcome', 'v'),
	('release_quota', 'p_user_id uuid, p_metric text, p_amount numeric DEFAULT 1, p_idempotency_key text DEFAULT NULL::text, p_metadata jsonb DEFAULT NULL::jsonb', 'quota.outcome', 'v'),
	('set_gauge', 'p_user_id uuid, p_metric text, p_value numeric, p_reason text DEFAULT NULL::text', 'quota.outcome', 'v'),
	('expire_reservations', 'p_limit integer DEFAULT 10000', 'integer', 'v'),
	('set_recurring_bonus', 'p_user_id uuid, p_metric text, p_amount numeric, p_period text DEFAULT ''month''::text, p_reason text DEFAULT NULL::text, p_anchor timestamp with time zone DEFAULT NULL::timestamp with time zone, p_accumulates boolean DEFAULT false, p_priority integer DEFAULT 50, p_ends_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'uuid', 'v'),
	('stop_recurring_bonus', 'p_recurring_id uuid, p_reason text DEFAULT NULL::text', 'boolean', 'v'),
	('enforce_quota', '', 'trigger', 'v'),
	('check_quota', 'p_user_id uuid, p_metric text, p_amount numeric DEFAULT 1', 'quota.outcome', 's'),
	('get_user_quota_status', 'p_user_id uuid, OUT metric text, OUT period text, OUT plan text, OUT limit_amount numeric, OUT used numeric, OUT bonus_remaining numeric, OUT remaining numeric, OUT percent_used numeric, OUT severity text, OUT period_start timestamp with time zone, OUT resets_at timestamp with time zone, OUT limit_user_id uuid, OUT overage numeric, OUT cost numeric, OUT held numeric', 'SETOF record', 's'),
	('get_users_near_quota_limit', 'p_threshold_percent numeric DEFAULT 80', 'TABLE(user_id uuid, metric text, period text, used numeric, limit_amount numeric, percent_used numeric)', 's'),
	('verify_ledger', 'p_user_id uuid DEFAULT NULL::uuid', 'TABLE(user_id uuid, metric text, period text, period_start timestamp with time zone, counter text, recorded numeric, expected numeric)', 's'),
	('assign_plan', 'p_user_id uuid, p_plan text, p_strategy text DEFAULT ''keep''::text, p_anchor timestamp with time zone DEFAULT NULL::timestamp with time zone, p_time_zone text DEFAULT NULL::text, p_reason text DEFAULT NULL::text', 'void', 'v'),
	('grant_bonus', 'p_user_id uuid, p_metric text, p_amount numeric, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_reason text DEFAULT NULL::text, p_priority integer DEFAULT 50, p_source text DEFAULT ''promotional''::text, p_giftable boolean DEFAULT false, p_unit_cost numeric DEFAULT NULL::numeric, p_currency text DEFAULT NULL::text, p_transaction_id text DEFAULT NULL::text', 'uuid', 'v'),
	('void_bonus', 'p_bonus_id uuid, p_reason text DEFAULT NULL::text', 'numeric', 'v'),
	('topup_price', 'p_user_id uuid, p_metric text, p_amount numeric, OUT plan text, OUT unit_price numeric, OUT price numeric, OUT currency text', 'record', 's'),
	('purchase_topup', 'p_user_id uuid, p_metric text, p_amount numeric, p_transaction_id text DEFAULT NULL::text, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_reason text DEFAULT NULL::text', 'TABLE(bonus_id uuid, amount numeric, unit_price numeric, price numeric, currency text, total_available numeric, transaction_id text, already_processed boolean)', 'v'),
	('gift_quota', 'p_from uuid, p_to uuid, p_metric text, p_amount numeric, p_idempotency_key text DEFAULT NULL::text, p_reason text DEFAULT NULL::text', 'TABLE(gift_id uuid, allowed boolean, reason text, amount numeric, giver_remaining numeric, receiver_remaining numeric, already_processed boolean)', 'v'),
	('set_limit_override', 'p_user_id uuid, p_metric text, p_limit_amount numeric, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_reason text DEFAULT NULL::text, p_period text DEFAULT NULL::text', 'void', 'v'),
	('clear_limit_override', 'p_user_id uuid, p_metric text, p_reason text DEFAULT NULL::text, p_period text DEFAULT NULL::text', 'boolean', 'v'),
	('current_plan', 'p_user_id uuid, p_announced boolean DEFAULT false', 'text', 's'),
	('set_parent', 'p_user_id uuid, p_parent uuid, p_reason text DEFAULT NULL::text', 'void', 'v'),
	('reset_user_quota', 'p_user_id uuid, p_metric text DEFAULT NULL::text, p_reason text DEFAULT NULL::text', 'TABLE(metric text, old_value numeric, new_value numeric)', 'v'),
	('adjust_usage', 'p_user_id uuid, p_metric text, p_delta numeric, p_reason text', 'quota.outcome', 'v'),
	('bulk_reset_quota', 'p_query text, p_metric text DEFAULT NULL::text, p_reason text DEFAULT NULL::text, p_dry_run boolean DEFAULT true', 'TABLE(user_id uuid, metric text, old_value numeric, new_value numeric, changed boolean)', 'v'),
	('bulk_adjust_usage', 'p_query text, p_metric text, p_delta numeric, p_reason text, p_dry_run boolean DEFAULT true', 'TABLE(user_id uuid, metric text, old_value numeric, new_value numeric, changed boolean)', 'v'),
	('bulk_assign_plan', 'p_query text, p_plan text, p_strategy text DEFAULT ''keep''::text, p_reason text DEFAULT NULL::text, p_dry_run boolean DEFAULT true', 'TABLE(user_id uuid, plan text, old_value text, new_value text, changed boolean)', 'v'),
	('bulk_grant_bonus', 'p_query text, p_metric text, p_amount numeric, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_reason text DEFAULT NULL::text, p_priority integer DEFAULT 50, p_source text DEFAULT ''promotional''::text, p_dry_run boolean DEFAULT true', 'TABLE(user_id uuid, metric text, old_value numeric, new_value numeric, changed boolean)', 'v'),
	('dedupe_key', 'p_user_id uuid, p_metric text, p_fingerprint text, p_window interval DEFAULT ''00:00:05''::interval', 'text', 'v'),
	('http_response', 'p_outcome quota.outcome, OUT status integer, OUT headers jsonb, OUT body jsonb', 'record', 's'),
	('get_usage_logs', 'p_user_id uuid DEFAULT NULL::uuid, p_metric text DEFAULT NULL::text, p_from timestamp with time zone DEFAULT NULL::timestamp with time zone, p_to timestamp with time zone DEFAULT NULL::timestamp with time zone, p_limit integer DEFAULT 100, p_offset integer DEFAULT 0, p_kind text DEFAULT NULL::text', 'TABLE(id uuid, user_id uuid, metric text, kind text, amount numeric, bonus_used numeric, overage numeric, cost numeric, period text, metadata jsonb, refers_to uuid, created_at timestamp with time zone)', 's'),
	('get_quota_statistics', 'p_metric text DEFAULT NULL::text, p_days integer DEFAULT 30', 'TABLE(total_usage numeric, total_calls bigint, unique_users bigint, avg_usage_per_call numeric, peak_usage_date date, successful_calls bigint, failed_calls bigint, total_cost numeric, most_used_metric text, peak_weekday text, utilisation numeric)', 's'),
	('reconcile_gauge', 'p_metric text, p_relation regclass, p_user_column name DEFAULT ''user_id''::name, p_amount_column name DEFAULT NULL::name, p_apply boolean DEFAULT false', 'TABLE(user_id uuid, recorded numeric, counted numeric, drift numeric)', 'v'),
	('load_preset', 'p_name text', 'integer', 'v'),
	('grant_access', 'p_role regrole, p_level text', 'void', 'v');

SELECT has_function('quota', name, name || ' exists') FROM contract ORDER BY name;
SELECT is((SELECT count(*)::int FROM pg_proc p WHERE p.pronamespace = 'quota'::regnamespace AND p.proname = c.name), 1, name || ' is not overloaded')
	FROM contract c ORDER BY name;
SELECT is(pg_get_function_arguments(p.oid), c.arguments, name || ': arguments')
	FROM contract c JOIN pg_proc p ON p.proname = c.name AND p.pronamespace = 'quota'::regnamespace ORDER BY name;
SELECT is(pg_get_function_result(p.oid), c.result, name || ': result')
	FROM contract c JOIN pg_proc p ON p.proname = c.name AND p.pronamespace = 'quota'::regnamespace ORDER BY name;
SELECT is(p.provolatile, c.volatility, name || ': volatility')
	FROM contract c JOIN pg_proc p ON p.proname = c.name AND p.pronamespace = 'quota'::regnamespace ORDER BY name;
SELECT isnt(obj_description(p.oid, 'pg_proc'), NULL, name || ' has a comment')
	FROM contract c JOIN pg_proc p ON p.proname = c.name AND p.pronamespace = 'quota'::regnamespace ORDER BY name;
SELECT is(has_function_privilege('public', p.oid, 'EXECUTE'), false, name || ' is not for everybody')
	FROM contract c JOIN pg_proc p ON p.proname = c.name AND p.pronamespace = 'quota'::regnamespace ORDER BY name;

-- Tables and the columns that others read ---------------------------------------------------

CREATE TEMP TABLE tables (name name, columns text[]);
INSERT INTO tables VALUES
	('usage_tracking', '{user_id,metric,period,period_start,period_end,used,bonus_used,overage,held}'),
	('usage_events', '{id,user_id,metric,kind,amount,metadata,created_at}'),
	('user_bonuses', '{id,user_id,metric,amount,used_amount,priority,expires_at}'),
	('quota_audit_log', '{id,user_id,metric,attempted_amount,success,reason,plan_limit,current_usage,remaining,created_at}'),
	('plan_limits', '{plan,metric,period,limit_amount}'),
	('usage_history', '{user_id,metric,period,period_start,period_end,used,bonus_used,overage}'),
	('plans', '{plan}'),
	('metrics', '{metric}'),
	('metric_aliases', '{alias,metric}'),
	('subscriptions', '{user_id,plan}'),
	('plan_change_log', '{id,user_id,old_plan,new_plan,strategy,effective_at,actor,reason,detail,created_at}'),
	('limit_overrides', '{user_id,metric,limit_amount,expires_at,reason}'),
	('bonus_allocations', '{event_id,bonus_id,amount}'),
	('topup_prices', '{plan,metric,min_amount,unit_price,discount,currency}'),
	('topups', '{bonus_id,plan,unit_price,price,currency}'),
	('gifts', '{id,from_user_id,to_user_id,metric,amount,created_at}'),
	('gift_lines', '{gift_id,ordinal,from_bonus_id,to_bonus_id,amount}'),
	('gift_parties', '{user_id,metric}');
SELECT has_table('quota', name, 'table ' || name) FROM tables ORDER BY name;
SELECT is(array(SELECT c FROM unnest(t.columns) AS c WHERE NOT EXISTS (SELECT FROM pg_attribute
		WHERE attrelid = ('quota.' || t.name)::regclass AND attname = c AND attnum > 0 AND NOT attisdropped)), '{}', name || ' has its columns')
	FROM tables t ORDER BY name;
SELECT is((SELECT count(*)::int FROM pg_class c, aclexplode(c.relacl) AS a WHERE c.oid = ('quota.' || t.name)::regclass AND a.grantee = 0), 0, name || ' is not for everybody')
	FROM tables t ORDER BY name;
SELECT has_pk('quota', name, name || ' has a primary key') FROM tables ORDER BY name;

SELECT col_type_is('quota', 'usage_tracking', c, 'numeric', 'usage_tracking.' || c) FROM unnest('{used,bonus_used,overage,held}'::name[]) AS c;
SELECT col_type_is('quota', 'usage_tracking', c, 'timestamp with time zone', 'usage_tracking.' || c) FROM unnest('{period_start,period_end}'::name[]) AS c;
SELECT col_type_is('quota', t, 'id', 'uuid', t || '.id') FROM unnest('{usage_events,user_bonuses,quota_audit_log}'::name[]) AS t;
SELECT col_type_is('quota', t, 'user_id', 'uuid', t || '.user_id')
	FROM unnest('{usage_tracking,usage_events,user_bonuses,quota_audit_log,usage_history,subscriptions}'::name[]) AS t;
SELECT col_type_is('quota', 'usage_events', 'metadata', 'jsonb', 'usage_events.metadata');
SELECT col_type_is('quota', 'quota_audit_log', 'success', 'boolean', 'quota_audit_log.success');
SELECT col_is_null('quota', 'plan_limits', 'limit_amount', 'NULL means unlimited');
SELECT col_is_null('quota', 'user_bonuses', 'expires_at', 'NULL means never');

-- Installing adds no rows
SELECT is_empty(format('SELECT FROM quota.%I', name), name || ' is empty') FROM tables ORDER BY name;

-- Indexes that runbooks look for ---------------------------------------------------------------

SELECT has_index('quota', 'usage_tracking', 'idx_usage_tracking_quota_lookup', '{user_id,metric,period}'::name[], 'idx_usage_tracking_quota_lookup');
SELECT has_index('quota', 'usage_events', 'idx_usage_events_idempotency_lookup', 'idx_usage_events_idempotency_lookup');
SELECT index_is_unique('quota', 'usage_events', 'idx_usage_events_idempotency_lookup', 'a key is used once');
SELECT isnt((SELECT indpred FROM pg_index WHERE indexrelid = 'quota.idx_usage_events_idempotency_lookup'::regclass)::text, NULL, 'calls without a key are not in it');
SELECT has_index('quota', 'user_bonuses', 'idx_user_bonuses_available', 'idx_user_bonuses_available');
SELECT isnt((SELECT indpred FROM pg_index WHERE indexrelid = 'quota.idx_user_bonuses_available'::regclass)::text, NULL, 'used up bonuses are not in it');
SELECT has_index('quota', 'usage_tracking', 'idx_usage_tracking_monitoring_dashboard', 'idx_usage_tracking_monitoring_dashboard');

-- Presets and errors ------------------------------------------------------------------------------

SELECT lives_ok(format('SELECT quota.load_preset(%L)', p), 'preset ' || p) FROM unnest('{sheenapps,idoctor,rag_trial,bn_aura}'::text[]) AS p;
SELECT quota.assign_plan('11111111-1111-1111-1111-111111111111', 'free') \g /dev/null
SELECT throws_ok($$SELECT quota.require_quota('11111111-1111-1111-1111-111111111111', 'exports', 2)$$, 'QU001', NULL, 'denied: QU001');
SELECT throws_ok($$SELECT quota.check_and_consume_quota('11111111-1111-1111-1111-111111111111', 'export')$$, 'QU002', NULL, 'unknown metric: QU002');
SELECT throws_ok($$SELECT quota.assign_plan('11111111-1111-1111-1111-111111111111', 'fre')$$, 'QU003', NULL, 'unknown plan: QU003');
SELECT throws_ok($$SELECT quota.load_preset('sheenaps')$$, 'QU003', NULL, 'unknown preset: QU003');
SELECT throws_ok($$SELECT quota.check_and_consume_quota('11111111-1111-1111-1111-111111111111', 'exports', -1)$$, '22023', NULL, 'negative amount: 22023');
SELECT row_eq($$SELECT allowed, remaining, limit_amount, bonus_used, already_processed, reason FROM quota.check_and_consume_quota(
		p_user_id := '11111111-1111-1111-1111-111111111111', p_metric := 'ai_generations', p_amount := 1, p_idempotency_key := 'request-key')$$,
	ROW(true, 9::numeric, 10::numeric, 0::numeric, false, 'ok'::text), 'a call by argument names');

-- Rights -----------------------------------------------------------------------------------------------

CREATE ROLE regress_quota_pgtap;
SELECT schema_privs_are('quota', 'regress_quota_pgtap', '{}', 'nothing by default');
SELECT quota.grant_access('regress_quota_pgtap', 'app') \g /dev/null
SELECT schema_privs_are('quota', 'regress_quota_pgtap', '{USAGE}', 'app: the schema');
SELECT function_privs_are('quota', 'check_and_consume_quota', '{uuid,text,numeric,text,jsonb}', 'regress_quota_pgtap', '{EXECUTE}', 'app: may consume');
SELECT function_privs_are('quota', 'grant_bonus', '{uuid,text,numeric,"timestamp with time zone",text,integer,text,boolean,numeric,text,text}', 'regress_quota_pgtap', '{}', 'app: may not give');
SELECT table_privs_are('quota', name, 'regress_quota_pgtap', '{}', 'app: not ' || name) FROM tables ORDER BY name;

SELECT * FROM finish();
ROLLBACK;

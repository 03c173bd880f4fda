-- ---------------------------------------------------------------------------
-- Who may do what
--
-- Comes last: what is created below the REVOKEs would be open to PUBLIC.
--
-- EXECUTE on a function is the permission to do what it does, for consuming
-- (which writes without looking at table rights) as for admin acts (which run
-- as the owner).  So nobody gets a right by default, and nobody but the owner
-- writes accounts, ledger and log directly.
-- ---------------------------------------------------------------------------

CREATE FUNCTION quota.grant_access(p_role regrole, p_level text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_owner			oid := (SELECT proowner FROM pg_catalog.pg_proc
						WHERE oid = 'quota.grant_access(regrole, text)'::regprocedure);
	v_role			name := (SELECT rolname FROM pg_catalog.pg_roles WHERE oid = p_role);

	v_app			text := 'quota.check_and_consume_quota, quota.check_quota, quota.require_quota,
						quota.consume_up_to, quota.consume_quotas, quota.consume_quota_batch,
						quota.reserve_quota, quota.settle_reservation, quota.cancel_reservation,
						quota.refund_quota, quota.release_quota, quota.get_user_quota_status,
						quota.topup_price, quota.gift_quota,
						quota.dedupe_key, quota.http_response';
	v_monitor		text := 'quota.check_quota, quota.get_user_quota_status, quota.get_users_near_quota_limit,
						quota.verify_ledger, quota.current_plan, quota.clock, quota.resolve_metric, quota.period_bounds,
						quota.get_usage_logs, quota.get_quota_statistics, quota.id_bound';
	v_admin			text := 'quota.expire_reservations, quota.set_recurring_bonus, quota.stop_recurring_bonus, quota.set_gauge, quota.enforce_quota, quota.load_preset, quota.assign_plan, quota.grant_bonus, quota.set_limit_override,
						quota.clear_limit_override,
						quota.reconcile_gauge, quota.period_length,
						quota.void_bonus, quota.purchase_topup,
						quota.set_parent, quota.reset_user_quota, quota.adjust_usage,
						quota.bulk_reset_quota, quota.bulk_adjust_usage, quota.bulk_assign_plan, quota.bulk_grant_bonus,
						quota.bulk_act, quota.bulk_subjects';
	v_catalogue		text := 'quota.metrics, quota.metric_aliases, quota.plans, quota.plan_limits,
						quota.topup_prices';
	-- a CHECK constraint and a trigger of the catalogue call these as the role that writes
	v_constraints	text := 'quota.valid_limit, quota.valid_price, quota.canonical_period';
BEGIN
	-- GRANT by somebody else would only warn and grant nothing
	IF NOT pg_has_role(current_user, v_owner, 'USAGE') THEN
		RAISE EXCEPTION 'permission denied to grant access to quota'
			USING ERRCODE = '42501',
				DETAIL = format('The extension belongs to %s.', v_owner::regrole),
				HINT = 'Call grant_access as its owner or as a superuser.';
	END IF;
	IF p_level IS NULL OR p_level NOT IN ('app', 'monitor', 'admin') THEN
		RAISE EXCEPTION 'unknown access level %', coalesce('"' || p_level || '"', 'NULL')
			USING ERRCODE = '22023',
				HINT = 'The levels are "app", "monitor" and "admin".';
	END IF;
	IF p_role IS NULL OR p_role = 0::oid THEN
		RAISE EXCEPTION 'access must be granted to a role'
			USING ERRCODE = '22023',
				HINT = 'Name one role; access for PUBLIC is not offered.';
	END IF;
	IF v_role IS NULL THEN
		RAISE EXCEPTION 'role with OID % does not exist', p_role::oid
			USING ERRCODE = '42704',
				HINT = 'Pass the name of an existing role.';
	END IF;
	-- the REVOKEs below would take the owner's rights from the functions that run as it
	IF p_role = v_owner THEN
		RAISE EXCEPTION 'role "%" owns the extension', v_role
			USING ERRCODE = '22023',
				HINT = 'The owner has every right already; name the role of the application.';
	END IF;

	-- two at once would update the same rows of the system catalogues and one would fail
	PERFORM pg_advisory_xact_lock('pg_catalog.pg_namespace'::regclass::oid::integer,
		'quota'::regnamespace::oid::integer);

	-- the level is all that the role has afterwards, so a lower one takes away
	EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA quota FROM %I', v_role);
	EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA quota FROM %I', v_role);
	EXECUTE format('REVOKE ALL ON SCHEMA quota FROM %I', v_role);

	EXECUTE format('GRANT USAGE ON SCHEMA quota TO %I', v_role);
	IF p_level IN ('app', 'admin') THEN
		EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', v_app, v_role);
	END IF;
	IF p_level IN ('monitor', 'admin') THEN
		EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA quota TO %I', v_role);
		EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', v_monitor, v_role);
	END IF;
	IF p_level = 'admin' THEN
		EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', v_admin, v_role);
		EXECUTE format('GRANT INSERT, UPDATE, DELETE ON %s TO %I', v_catalogue, v_role);
		EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', v_constraints, v_role);
	END IF;
END
$$;
COMMENT ON FUNCTION quota.grant_access(regrole, text) IS
'Sets a role''s rights in the schema to a level: app (consume and ask), monitor (read everything) or admin (both, the admin acts, and the catalogue of metrics and plans); only for the owner of the extension';

-- Types keep USAGE for PUBLIC: their names are out of reach without USAGE on the
-- schema, values come only from functions that are guarded themselves, and a role
-- with access may wrap a call in a function that returns quota.outcome.
REVOKE ALL ON ALL TABLES IN SCHEMA quota FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA quota FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA quota FROM PUBLIC;
REVOKE ALL ON SCHEMA quota FROM PUBLIC;

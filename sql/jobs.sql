-- ---------------------------------------------------------------------------
-- Jobs: what is due by itself, written before somebody needs it
--
-- Nothing depends on them: whoever reads an account sees it as it is now.  They
-- leave less to do for the next call.
-- ---------------------------------------------------------------------------

CREATE FUNCTION quota.expire_reservations(p_limit integer DEFAULT 10000) RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_account	record;
	v_tidied	integer := 0;
BEGIN
	IF p_limit IS NULL OR p_limit < 1 THEN
		RAISE EXCEPTION 'limit of accounts must be at least 1'
			USING ERRCODE = '22023',
				DETAIL = format('The limit is %s.', coalesce(p_limit::text, 'NULL')),
				HINT = 'Pass how many accounts are tidied at most, or leave it out for 10000.';
	END IF;
	-- in the order of locking, so that two at once do not wait for each other
	FOR v_account IN
		SELECT DISTINCT t.user_id, t.metric
		FROM quota.usage_tracking t
		WHERE t.holds_expire_at <= quota.clock()
		ORDER BY t.user_id, t.metric
		LIMIT p_limit
	LOOP
		IF quota.tidy_account(v_account.user_id, v_account.metric) THEN
			v_tidied := v_tidied + 1;
		END IF;
	END LOOP;
	RETURN v_tidied;
END
$$;
COMMENT ON FUNCTION quota.expire_reservations(integer) IS
'Writes down which reservations have expired, of at most p_limit subjects and metrics; returns of how many.  They stopped counting when they expired, whether it runs or not';

-- ---------------------------------------------------------------------------
-- Parents: whose member a subject is
--
-- Where a subject has a parent, the limits of both count.  The engine follows
-- parents upwards, so no circle may come to be, and no chain that is longer
-- than what it follows.
-- ---------------------------------------------------------------------------

-- One lock for all changes of parents in this database: two transactions that each
-- write one half of a cycle would not see each other's.
CREATE FUNCTION quota.lock_parents() RETURNS trigger
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM pg_advisory_xact_lock('pg_catalog.pg_class'::regclass::oid::integer,
		'quota.subscriptions'::regclass::oid::integer);
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION quota.lock_parents() IS
'Trigger: waits until no other transaction changes parents, before any row is locked';

CREATE FUNCTION quota.check_parents() RETURNS trigger
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- the engine charges as many
	c_levels	CONSTANT integer := 8;
	v_above		uuid[] := ARRAY[NEW.user_id];
	v_below		integer;
	v_next		uuid := NEW.parent;
BEGIN
	-- an INSERT has not taken it yet
	PERFORM pg_advisory_xact_lock('pg_catalog.pg_class'::regclass::oid::integer,
		'quota.subscriptions'::regclass::oid::integer);

	WHILE v_next IS NOT NULL LOOP
		IF v_next = NEW.user_id THEN
			RAISE EXCEPTION 'parents of a subject must not lead back to it'
				USING ERRCODE = '23514',
					DETAIL = format('The parents of %s lead to %s.', NEW.parent, NEW.user_id),
					HINT = 'Take away a parent on the way between them first: quota.set_parent(..., NULL).';
		END IF;
		v_above := v_above || v_next;
		-- a circle of others, made while triggers were disabled, ends here too
		EXIT WHEN cardinality(v_above) > c_levels;

		-- Under the lock a snapshot of this moment sees all.  A transaction that keeps an
		-- older one would miss what was committed since, and it takes two such halves to
		-- make a circle.  So there each row on the way is locked, which fails (40001) if it
		-- was changed since; and a subject that has no row, as far as the snapshot tells, is
		-- looked for by the unique index, which knows newer ones (40001 again).  The row
		-- that this makes is undone.  (Rows below that the snapshot misses are not found like
		-- that: such a chain may get too long, and is then refused by the engine.)
		IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
			PERFORM 1 FROM quota.subscriptions WHERE user_id = v_next FOR SHARE;
			IF NOT FOUND THEN
				BEGIN
					INSERT INTO quota.subscriptions (user_id) VALUES (v_next) ON CONFLICT (user_id) DO NOTHING;
					RAISE EXCEPTION USING ERRCODE = 'QU999';
				EXCEPTION WHEN SQLSTATE 'QU999' THEN
					NULL;
				END;
			END IF;
		END IF;
		SELECT parent INTO v_next FROM quota.subscriptions WHERE user_id = v_next;
	END LOOP;

	WITH RECURSIVE below (user_id, level) AS (
		SELECT NEW.user_id, 0
		UNION ALL
		SELECT s.user_id, b.level + 1
		FROM below b
		JOIN quota.subscriptions s ON s.parent = b.user_id
		WHERE b.level < c_levels
	)
	SELECT max(level) INTO v_below FROM below;

	IF cardinality(v_above) + v_below > c_levels THEN
		RAISE EXCEPTION 'too many levels of parents'
			USING ERRCODE = '23514',
				DETAIL = format('Subject %s would be in a chain of more than %s subjects, from the lowest member to the top.',
					NEW.user_id, c_levels),
				HINT = 'Give it a parent that is nearer to the top.';
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION quota.check_parents() IS
'Trigger: refuses a parent that makes a circle, or a chain of more than 8 subjects (23514)';

-- Before any row is locked: whoever waits here must hold nothing that the other needs.
CREATE TRIGGER lock_parents BEFORE UPDATE OF parent ON quota.subscriptions
	FOR EACH STATEMENT EXECUTE FUNCTION quota.lock_parents();
COMMENT ON TRIGGER lock_parents ON quota.subscriptions IS 'One transaction at a time changes parents';

CREATE TRIGGER check_parents AFTER INSERT OR UPDATE OF parent ON quota.subscriptions
	FOR EACH ROW WHEN (NEW.parent IS NOT NULL) EXECUTE FUNCTION quota.check_parents();
COMMENT ON TRIGGER check_parents ON quota.subscriptions IS 'Refuses circles, and chains of more than 8 subjects';

CREATE FUNCTION quota.set_parent(
	p_user_id uuid,
	p_parent uuid,
	p_reason text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_old	quota.subscriptions;
	v_id	uuid;
	v_now	timestamptz;
BEGIN
	PERFORM quota.checked_user(p_user_id);
	IF p_parent = p_user_id THEN
		RAISE EXCEPTION 'a subject cannot be its own parent'
			USING ERRCODE = '23514',
				DETAIL = format('The subject is %s.', p_user_id),
				HINT = 'Pass the uuid of its team or organisation, or NULL to take the parent away.';
	END IF;

	-- as the trigger does, and like it before any row is locked
	PERFORM pg_advisory_xact_lock('pg_catalog.pg_class'::regclass::oid::integer,
		'quota.subscriptions'::regclass::oid::integer);

	-- locked before it is read, as in assign_plan
	FOR i IN 1 .. 10 LOOP
		SELECT * INTO v_old FROM quota.subscriptions WHERE user_id = p_user_id FOR NO KEY UPDATE;
		v_now := quota.clock();

		IF v_old.user_id IS NOT NULL THEN
			UPDATE quota.subscriptions SET parent = p_parent WHERE user_id = p_user_id
				RETURNING user_id INTO v_id;
		ELSIF p_parent IS NULL THEN
			v_id := p_user_id;		-- it has none
			EXIT;
		ELSE
			INSERT INTO quota.subscriptions (user_id, parent, anchor, created_at, updated_at)
				VALUES (p_user_id, p_parent, v_now, v_now, v_now)
				ON CONFLICT (user_id) DO NOTHING
				RETURNING user_id INTO v_id;
		END IF;
		EXIT WHEN FOUND;
	END LOOP;
	PERFORM quota.checked_write(v_id, 'quota.subscriptions');

	PERFORM quota.record_admin_act(v_now, 'set_parent', p_user_id, p_reason,
		jsonb_build_object(
			'old', jsonb_build_object('parent', v_old.parent),
			'new', jsonb_build_object('parent', p_parent)));
END
$$;
COMMENT ON FUNCTION quota.set_parent(uuid, uuid, text) IS
'Makes a subject a member of another one, whose limits are charged along with its own; NULL takes the parent away. A subject without a subscription gets one without a plan, so that quota.default_plan no longer counts for it';

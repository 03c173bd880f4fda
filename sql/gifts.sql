-- ---------------------------------------------------------------------------
-- Gifts: units of giftable bonuses, from one subject to another
--
-- No usage counter moves: the giver's bonus has given away what the receiver's
-- new bonus has.  sum(gift_lines.amount) of a bonus is its given_amount.
--
-- Locks: the accounts of both, their rows in gift_parties, each in the order of
-- the subjects, then the giver's bonuses by id.  A gift updates both rows of
-- gift_parties: in READ COMMITTED the next one reads after it, and under a
-- snapshot that is older than it the next one fails with 40001.  So the key
-- and the sums of the period, which are read after these locks, miss nothing.
-- ---------------------------------------------------------------------------

-- Tables -----------------------------------------------------------------------

CREATE TABLE quota.gifts (
	id				uuid PRIMARY KEY,
	from_user_id	uuid NOT NULL,
	to_user_id		uuid NOT NULL,
	metric			text COLLATE "C" NOT NULL,
	amount			numeric NOT NULL,
	reason			text,
	key_hash		bytea,
	giver_remaining		numeric,
	receiver_remaining	numeric,
	created_at		timestamptz NOT NULL,
	CHECK (from_user_id <> to_user_id)
);
COMMENT ON TABLE quota.gifts IS 'Gifts that were made, and the answers that were given; append-only';
COMMENT ON COLUMN quota.gifts.id IS 'UUID version 7 of created_at: ordered by time';
COMMENT ON COLUMN quota.gifts.from_user_id IS 'The giver';
COMMENT ON COLUMN quota.gifts.to_user_id IS 'The receiver';
COMMENT ON COLUMN quota.gifts.metric IS 'The metric, aliases resolved';
COMMENT ON COLUMN quota.gifts.amount IS 'Units given';
COMMENT ON COLUMN quota.gifts.reason IS 'What the giver wrote';
COMMENT ON COLUMN quota.gifts.key_hash IS 'SHA-256 of giver, receiver, metric and idempotency key; the key itself is not stored';
COMMENT ON COLUMN quota.gifts.giver_remaining IS 'What the giver had left after it; NULL = unlimited';
COMMENT ON COLUMN quota.gifts.receiver_remaining IS 'What the receiver had left after it; NULL = unlimited';
COMMENT ON COLUMN quota.gifts.created_at IS 'Time of the gift, taken while both accounts were locked';

CREATE TABLE quota.gift_lines (
	gift_id			uuid NOT NULL,
	ordinal			integer NOT NULL,
	from_bonus_id	uuid NOT NULL,
	to_bonus_id		uuid NOT NULL,
	amount			numeric NOT NULL,
	PRIMARY KEY (gift_id, ordinal)
);
COMMENT ON TABLE quota.gift_lines IS 'Which bonus of the giver became which bonus of the receiver, one line each; append-only';
COMMENT ON COLUMN quota.gift_lines.gift_id IS 'The gift';
COMMENT ON COLUMN quota.gift_lines.ordinal IS 'Place of the bonus in the order of use';
COMMENT ON COLUMN quota.gift_lines.from_bonus_id IS 'Bonus that gave, in user_bonuses';
COMMENT ON COLUMN quota.gift_lines.to_bonus_id IS 'Bonus that was made of it, in user_bonuses';
COMMENT ON COLUMN quota.gift_lines.amount IS 'Units given';

CREATE TABLE quota.gift_parties (
	user_id			uuid,
	metric			text COLLATE "C",
	last_gift_at	timestamptz,
	PRIMARY KEY (user_id, metric)
) WITH (fillfactor = 70);
COMMENT ON TABLE quota.gift_parties IS
'One row for each subject and metric that has to do with gifts: in it two gifts of one subject meet, in every isolation level';
COMMENT ON COLUMN quota.gift_parties.user_id IS 'The subject, giver or receiver';
COMMENT ON COLUMN quota.gift_parties.metric IS 'The metric';
COMMENT ON COLUMN quota.gift_parties.last_gift_at IS 'When it gave or received last; NULL = never yet';

CREATE UNIQUE INDEX idx_gifts_idempotency_lookup ON quota.gifts (key_hash) WHERE key_hash IS NOT NULL;
COMMENT ON INDEX quota.idx_gifts_idempotency_lookup IS
'Finds the earlier gift with the same key; the backstop that makes a second one impossible';
CREATE INDEX idx_gifts_sent ON quota.gifts (from_user_id, metric, created_at);
COMMENT ON INDEX quota.idx_gifts_sent IS 'What a subject has given in a period';
CREATE INDEX idx_gifts_received ON quota.gifts (to_user_id, metric, created_at);
COMMENT ON INDEX quota.idx_gifts_received IS 'What a subject has received in a period';
CREATE INDEX idx_gift_lines_bonus ON quota.gift_lines (from_bonus_id);
COMMENT ON INDEX quota.idx_gift_lines_bonus IS 'What was given from one bonus';

SELECT pg_catalog.pg_extension_config_dump('quota.gifts', '');
SELECT pg_catalog.pg_extension_config_dump('quota.gift_lines', '');
SELECT pg_catalog.pg_extension_config_dump('quota.gift_parties', '');

-- Giving -------------------------------------------------------------------------

CREATE FUNCTION quota.gift_key_hash(p_from uuid, p_to uuid, p_metric text, p_key text) RETURNS bytea
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	-- with lengths, so that no two of them run into each other
	SELECT sha256(uuid_send(p_from) || uuid_send(p_to)
		|| int4send(octet_length(p_metric)) || convert_to(p_metric, getdatabaseencoding())
		|| int4send(octet_length(p_key)) || convert_to(p_key, getdatabaseencoding()))
$$;
COMMENT ON FUNCTION quota.gift_key_hash(uuid, uuid, text, text) IS
'The hash under which a gift with an idempotency key is found again; NULL without a key';

CREATE FUNCTION quota.record_gift(
	p_at timestamptz,
	p_action text,
	p_user_id uuid,
	p_metric text,
	p_amount numeric,
	p_reason text,
	p_remaining numeric,
	p_detail jsonb)
	RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH written AS (
		INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
				remaining, action, detail, created_at)
		VALUES (quota.new_id(p_at), p_user_id, p_metric, p_amount, p_reason IN ('ok', 'replay'), p_reason,
				p_remaining, p_action, p_detail, p_at)
		RETURNING id
	)
	SELECT quota.checked_write((SELECT id FROM written), 'quota.quota_audit_log')
$$;
COMMENT ON FUNCTION quota.record_gift(timestamptz, text, uuid, text, numeric, text, numeric, jsonb) IS
'Writes the audit row of a gift for one of its two subjects';

CREATE FUNCTION quota.gift_denial(
	p_from uuid,
	p_to uuid,
	p_metric text,
	p_amount numeric,
	p_at timestamptz)
	RETURNS text
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_metric	quota.metrics;
	v_since		timestamptz;
BEGIN
	IF p_amount > (
			SELECT coalesce(sum(b.amount - b.used_amount - b.held_amount - b.given_amount), 0)
			FROM quota.user_bonuses b
			WHERE b.user_id = p_from AND b.metric = p_metric AND b.available AND b.giftable
				AND (b.expires_at IS NULL OR b.expires_at > p_at)) THEN
		RETURN 'insufficient_giftable';
	END IF;

	SELECT * INTO v_metric FROM quota.metrics m WHERE m.metric = p_metric;
	-- a lifetime has no start
	v_since := coalesce((SELECT b.period_start
		FROM quota.period_bounds(coalesce(v_metric.gift_period, 'month'), NULL, 'UTC', p_at) AS b), '-infinity');
	IF v_metric.gift_sent_limit < p_amount + (
			SELECT coalesce(sum(g.amount), 0)
			FROM quota.gifts g
			WHERE g.from_user_id = p_from AND g.metric = p_metric AND g.created_at >= v_since) THEN
		RETURN 'gift_sent_limit';
	END IF;
	IF v_metric.gift_received_limit < p_amount + (
			SELECT coalesce(sum(g.amount), 0)
			FROM quota.gifts g
			WHERE g.to_user_id = p_to AND g.metric = p_metric AND g.created_at >= v_since) THEN
		RETURN 'gift_received_limit';
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION quota.gift_denial(uuid, uuid, text, numeric, timestamptz) IS
'Why a gift cannot be made; NULL = it can; for gift_quota, which holds the locks';

CREATE FUNCTION quota.move_gift(
	p_gift_id uuid,
	p_from uuid,
	p_to uuid,
	p_metric text,
	p_amount numeric,
	p_reason text,
	p_at timestamptz)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_left		numeric := p_amount;
	v_ordinal	integer := 0;
	v_bonus		quota.user_bonuses;
	v_take		numeric;
	v_id		uuid;
BEGIN
	-- in the order of use
	FOR v_bonus IN
		SELECT *
		FROM quota.user_bonuses b
		WHERE b.user_id = p_from AND b.metric = p_metric AND b.available AND b.giftable
			AND (b.expires_at IS NULL OR b.expires_at > p_at)
			AND b.amount > b.used_amount + b.held_amount + b.given_amount
		ORDER BY b.priority, b.expires_at NULLS LAST, b.source = 'paid', b.granted_at, b.id
	LOOP
		EXIT WHEN v_left = 0;
		v_take := least(v_left, v_bonus.amount - v_bonus.used_amount - v_bonus.held_amount - v_bonus.given_amount);
		v_left := v_left - v_take;
		v_ordinal := v_ordinal + 1;

		UPDATE quota.user_bonuses SET given_amount = given_amount + v_take
			WHERE id = v_bonus.id RETURNING id INTO v_id;
		PERFORM quota.checked_write(v_id, 'quota.user_bonuses');
		-- not giftable: what was received is not given on
		INSERT INTO quota.user_bonuses (user_id, metric, amount, priority, expires_at, source, reason, granted_at,
				unit_cost, currency)
			VALUES (p_to, p_metric, v_take, v_bonus.priority, v_bonus.expires_at, 'gift', p_reason, p_at,
				v_bonus.unit_cost, v_bonus.currency)
			RETURNING id INTO v_id;
		PERFORM quota.checked_write(v_id, 'quota.user_bonuses');
		INSERT INTO quota.gift_lines (gift_id, ordinal, from_bonus_id, to_bonus_id, amount)
			VALUES (p_gift_id, v_ordinal, v_bonus.id, v_id, v_take)
			RETURNING gift_id INTO v_id;
		PERFORM quota.checked_write(v_id, 'quota.gift_lines');
	END LOOP;
END
$$;
COMMENT ON FUNCTION quota.move_gift(uuid, uuid, uuid, text, numeric, text, timestamptz) IS
'Moves the units of a gift, bonus by bonus; for gift_quota, which holds the locks and knows that there are enough';

CREATE FUNCTION quota.gift_quota(
	p_from uuid,
	p_to uuid,
	p_metric text,
	p_amount numeric,
	p_idempotency_key text DEFAULT NULL,
	p_reason text DEFAULT NULL)
	RETURNS TABLE (
		gift_id uuid,
		allowed boolean,
		reason text,
		amount numeric,
		giver_remaining numeric,
		receiver_remaining numeric,
		already_processed boolean)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	v_metric	text;
	v_hash		bytea;
	v_now		timestamptz;
	v_gift		quota.gifts;
	v_parties	integer;
	v_detail	jsonb;
BEGIN
	PERFORM quota.checked_user(p_from);
	PERFORM quota.checked_user(p_to);
	v_metric := quota.resolve_metric(p_metric);
	PERFORM quota.checked_amount(p_amount);
	IF p_from = p_to THEN
		RAISE EXCEPTION 'giver and receiver must not be the same subject'
			USING ERRCODE = '22023',
				DETAIL = format('Both are %s.', p_from),
				HINT = 'Name another subject as p_to.';
	END IF;
	IF p_idempotency_key = '' THEN
		RAISE EXCEPTION 'idempotency key must not be empty'
			USING ERRCODE = '22023',
				HINT = 'Pass NULL for a call without a key.';
	END IF;
	v_hash := quota.gift_key_hash(p_from, p_to, v_metric, p_idempotency_key);

	PERFORM quota.lock_accounts(ARRAY[p_from, p_to], v_metric);
	INSERT INTO quota.gift_parties (user_id, metric)
		VALUES (least(p_from, p_to), v_metric), (greatest(p_from, p_to), v_metric)
		ON CONFLICT DO NOTHING;
	PERFORM FROM quota.gift_parties p
		WHERE p.user_id IN (p_from, p_to) AND p.metric = v_metric
		ORDER BY p.user_id
		FOR NO KEY UPDATE;
	GET DIAGNOSTICS v_parties = ROW_COUNT;
	PERFORM quota.checked_write(CASE WHEN v_parties = 2 THEN p_from END, 'quota.gift_parties');

	already_processed := false;
	IF v_hash IS NOT NULL THEN
		SELECT * INTO v_gift FROM quota.gifts g WHERE g.key_hash = v_hash;
	END IF;
	IF v_gift.amount <> p_amount THEN
		v_now := quota.clock();
		reason := 'idempotency_conflict';
	ELSIF v_gift.id IS NOT NULL THEN
		v_now := quota.clock();
		already_processed := true;
	ELSE
		-- what lapsed reservations held is free again
		PERFORM quota.tidy_account(p_from, v_metric);
		PERFORM FROM quota.user_bonuses b
			WHERE b.user_id = p_from AND b.metric = v_metric AND b.available AND b.giftable
			ORDER BY b.id
			FOR NO KEY UPDATE;
		v_now := quota.clock();
		reason := quota.gift_denial(p_from, p_to, v_metric, p_amount, v_now);

		IF reason IS NULL THEN
			v_gift.id := quota.new_id(v_now);
			PERFORM quota.move_gift(v_gift.id, p_from, p_to, v_metric, p_amount, p_reason, v_now);
			PERFORM quota.repay_overage(p_to, v_metric);
			UPDATE quota.gift_parties p SET last_gift_at = v_now
				WHERE p.user_id IN (p_from, p_to) AND p.metric = v_metric;
			GET DIAGNOSTICS v_parties = ROW_COUNT;
			PERFORM quota.checked_write(CASE WHEN v_parties = 2 THEN p_from END, 'quota.gift_parties');
			INSERT INTO quota.gifts (id, from_user_id, to_user_id, metric, amount, reason, key_hash,
					giver_remaining, receiver_remaining, created_at)
				VALUES (v_gift.id, p_from, p_to, v_metric, trim_scale(p_amount), p_reason, v_hash,
					(SELECT o.remaining FROM quota.check_quota(p_from, v_metric) AS o),
					(SELECT o.remaining FROM quota.check_quota(p_to, v_metric) AS o), v_now)
				RETURNING * INTO v_gift;
			PERFORM quota.checked_write(v_gift.id, 'quota.gifts');
		END IF;
	END IF;

	allowed := reason IS NULL;
	IF allowed THEN
		reason := 'ok';
		gift_id := v_gift.id;
		amount := v_gift.amount;
		giver_remaining := v_gift.giver_remaining;
		receiver_remaining := v_gift.receiver_remaining;
	ELSE
		amount := 0;
		giver_remaining := (SELECT o.remaining FROM quota.check_quota(p_from, v_metric) AS o);
		receiver_remaining := (SELECT o.remaining FROM quota.check_quota(p_to, v_metric) AS o);
	END IF;

	v_detail := jsonb_strip_nulls(jsonb_build_object('gift_id', gift_id, 'from', p_from, 'to', p_to, 'reason', p_reason));
	PERFORM quota.record_gift(v_now, 'gift_sent', p_from, v_metric, p_amount,
		CASE WHEN already_processed THEN 'replay' ELSE reason END, giver_remaining, v_detail);
	-- the receiver has nothing to do with attempts that failed
	IF allowed THEN
		PERFORM quota.record_gift(v_now, 'gift_received', p_to, v_metric, p_amount,
			CASE WHEN already_processed THEN 'replay' ELSE reason END, receiver_remaining, v_detail);
	END IF;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION quota.gift_quota(uuid, uuid, text, numeric, text, text) IS
'Gives units of the giver''s giftable bonuses to another subject, which cannot give them on; expiry and cost stay; one row, a denial too (insufficient_giftable, gift_sent_limit, gift_received_limit, idempotency_conflict), with an amount of 0; the same key gives once';

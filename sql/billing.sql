-- ---------------------------------------------------------------------------
-- Bonuses: given, bought, taken back
--
-- Each act checks all its arguments before it writes, and leaves one row in
-- quota_audit_log, as the acts of admin.sql do.  Where an act depends on what
-- is left of a subject it locks the account first and the bonus after it, in
-- the order of a consuming call.
-- ---------------------------------------------------------------------------

-- Tables -----------------------------------------------------------------------

CREATE TABLE quota.topup_prices (
	plan		text COLLATE "C" NOT NULL REFERENCES quota.plans ON DELETE CASCADE,
	metric		text COLLATE "C" NOT NULL REFERENCES quota.metrics ON DELETE CASCADE,
	min_amount	numeric NOT NULL DEFAULT 0 CHECK (quota.valid_limit(min_amount)),
	unit_price	numeric CHECK (quota.valid_price(unit_price)),
	discount	numeric CHECK (discount >= 0 AND discount < 1 AND discount = round(discount, 6)),
	currency	text CHECK (currency ~ '^[A-Z]{3}$'),
	PRIMARY KEY (plan, metric, min_amount),
	CHECK ((unit_price IS NULL) <> (discount IS NULL)),
	-- the overage price that a discount is taken off is in the currency of the plan
	CHECK (discount IS NULL OR currency IS NULL)
);
COMMENT ON TABLE quota.topup_prices IS
'What units bought beforehand cost on a plan; of several rows for one metric the largest min_amount that is reached counts, for all units';
COMMENT ON COLUMN quota.topup_prices.plan IS 'The plan of the buyer';
COMMENT ON COLUMN quota.topup_prices.metric IS 'The metric whose units are bought';
COMMENT ON COLUMN quota.topup_prices.min_amount IS 'The price counts for purchases of at least so many units';
COMMENT ON COLUMN quota.topup_prices.unit_price IS 'Price of a unit; NULL = by discount; at most 12 decimals';
COMMENT ON COLUMN quota.topup_prices.discount IS
'Fraction off the overage price of the plan''s allowance of the metric, such as 0.2; NULL = unit_price counts';
COMMENT ON COLUMN quota.topup_prices.currency IS 'ISO 4217 code of unit_price; NULL = the currency of the plan';

CREATE TABLE quota.topups (
	bonus_id		uuid PRIMARY KEY,
	plan			text COLLATE "C" NOT NULL,
	unit_price		numeric NOT NULL,
	price			numeric NOT NULL,
	currency		text,
	total_available	numeric,
	created_at		timestamptz NOT NULL
);
COMMENT ON TABLE quota.topups IS
'Purchases of purchase_topup and the answers that they gave, kept for repeats; amount and transaction id are with the bonus';
COMMENT ON COLUMN quota.topups.bonus_id IS 'The bonus in user_bonuses that was bought';
COMMENT ON COLUMN quota.topups.plan IS 'Plan whose price list counted';
COMMENT ON COLUMN quota.topups.unit_price IS 'Price of a unit then';
COMMENT ON COLUMN quota.topups.price IS 'Price of the purchase';
COMMENT ON COLUMN quota.topups.currency IS 'ISO 4217 code of the prices; NULL = the plan told none';
COMMENT ON COLUMN quota.topups.total_available IS 'What the buyer had left after the purchase; NULL = unlimited';
COMMENT ON COLUMN quota.topups.created_at IS 'Time of the purchase';

CREATE UNIQUE INDEX idx_user_bonuses_transaction
	ON quota.user_bonuses (user_id, metric, transaction_id) WHERE transaction_id IS NOT NULL;
COMMENT ON INDEX quota.idx_user_bonuses_transaction IS
'One bonus for one transaction id of a subject and metric, however often it is tried';

SELECT pg_catalog.pg_extension_config_dump('quota.topup_prices', '');
SELECT pg_catalog.pg_extension_config_dump('quota.topups', '');

-- What the acts share ------------------------------------------------------------

CREATE FUNCTION quota.checked_transaction(p_transaction_id text) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- it is part of an index entry, which has to fit into a page
	IF p_transaction_id = '' OR octet_length(p_transaction_id) > 255 THEN
		RAISE EXCEPTION 'transaction id must have 1 to 255 bytes'
			USING ERRCODE = '22023',
				DETAIL = format('It has %s.', octet_length(p_transaction_id)),
				HINT = 'Pass the id that the payment provider gave, or NULL.';
	END IF;
	RETURN p_transaction_id;
END
$$;
COMMENT ON FUNCTION quota.checked_transaction(text) IS
'Returns its argument if it is a transaction id or NULL; raises 22023 otherwise';

CREATE FUNCTION quota.add_bonus(
	p_bonus quota.user_bonuses,
	OUT bonus quota.user_bonuses,
	OUT is_new boolean)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- A transaction id that is in progress elsewhere is waited for; if that
	-- one rolls back, or its bonus is deleted, it goes round again.
	FOR i IN 1 .. 10 LOOP
		INSERT INTO quota.user_bonuses (user_id, metric, amount, priority, expires_at, source, reason,
				granted_at, giftable, unit_cost, currency, transaction_id)
			VALUES (p_bonus.user_id, p_bonus.metric, p_bonus.amount, p_bonus.priority, p_bonus.expires_at,
				p_bonus.source, p_bonus.reason, p_bonus.granted_at, p_bonus.giftable, p_bonus.unit_cost,
				p_bonus.currency, p_bonus.transaction_id)
			ON CONFLICT (user_id, metric, transaction_id) WHERE transaction_id IS NOT NULL DO NOTHING
			RETURNING * INTO bonus;
		is_new := FOUND;
		EXIT WHEN is_new;
		SELECT * INTO bonus
			FROM quota.user_bonuses b
			WHERE b.user_id = p_bonus.user_id AND b.metric = p_bonus.metric
				AND b.transaction_id = p_bonus.transaction_id;
		EXIT WHEN FOUND;
	END LOOP;
	PERFORM quota.checked_write((bonus).id, 'quota.user_bonuses');

	IF (bonus).amount <> p_bonus.amount THEN
		RAISE EXCEPTION 'transaction "%" was for another amount', p_bonus.transaction_id
			USING ERRCODE = '22023',
				DETAIL = format('It gave %s of "%s", now it is to give %s.',
					trim_scale((bonus).amount), p_bonus.metric, trim_scale(p_bonus.amount)),
				HINT = 'Repeat it with the same amount, or use a transaction id of its own for another bonus.';
	END IF;
END
$$;
COMMENT ON FUNCTION quota.add_bonus(quota.user_bonuses) IS
'Writes a bonus, or finds the one of the same subject, metric and transaction id; raises 22023 if that has another amount';

-- Given --------------------------------------------------------------------------

CREATE FUNCTION quota.grant_bonus(
	p_user_id uuid,
	p_metric text,
	p_amount numeric,
	p_expires_at timestamptz DEFAULT NULL,
	p_reason text DEFAULT NULL,
	p_priority integer DEFAULT 50,
	p_source text DEFAULT 'promotional',
	p_giftable boolean DEFAULT false,
	p_unit_cost numeric DEFAULT NULL,
	p_currency text DEFAULT NULL,
	p_transaction_id text DEFAULT NULL)
	RETURNS uuid
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_bonus		quota.user_bonuses;
	v_added		record;
	v_repaid	numeric := 0;
BEGIN
	v_bonus.user_id := quota.checked_user(p_user_id);
	v_bonus.metric := quota.resolve_metric(p_metric);
	v_bonus.amount := quota.checked_amount(p_amount);
	v_bonus.expires_at := quota.checked_expiry(p_expires_at);
	PERFORM quota.valid_price(p_unit_cost);
	v_bonus.transaction_id := quota.checked_transaction(p_transaction_id);

	IF p_priority IS NULL THEN
		RAISE EXCEPTION 'priority must not be null'
			USING ERRCODE = '22023',
				HINT = 'Bonuses with lower numbers are used first; the default is 50.';
	END IF;
	-- the others are set by what makes them: gifts, rollovers, refills
	IF p_source IS NULL OR p_source NOT IN ('promotional', 'paid') THEN
		RAISE EXCEPTION 'unknown source %', coalesce('"' || p_source || '"', 'NULL')
			USING ERRCODE = '22023',
				HINT = 'The source of a bonus is "promotional" or "paid".';
	END IF;
	IF p_giftable IS NULL THEN
		RAISE EXCEPTION 'giftable must not be null'
			USING ERRCODE = '22023',
				HINT = 'Pass true for units that may be given to another subject, else false.';
	END IF;
	IF p_currency !~ '^[A-Z]{3}$' THEN
		RAISE EXCEPTION 'invalid currency "%"', p_currency
			USING ERRCODE = '22023',
				HINT = 'Pass an ISO 4217 code such as EUR, or NULL.';
	END IF;

	v_bonus.reason := p_reason;
	v_bonus.priority := p_priority;
	v_bonus.source := p_source;
	v_bonus.giftable := p_giftable;
	v_bonus.unit_cost := p_unit_cost;
	v_bonus.currency := p_currency;
	-- One that may wait for another one with its transaction id waits for the account
	-- before, as purchase_topup does, or the two could wait for each other.
	IF p_transaction_id IS NOT NULL THEN
		PERFORM quota.lock_accounts(ARRAY[p_user_id], v_bonus.metric);
	END IF;
	v_bonus.granted_at := quota.clock();
	SELECT * INTO v_added FROM quota.add_bonus(v_bonus);
	v_bonus := v_added.bonus;

	IF v_added.is_new THEN
		v_repaid := quota.repay_overage(p_user_id, v_bonus.metric);
	END IF;

	PERFORM quota.record_admin_act(quota.clock(), 'grant_bonus', p_user_id,
		CASE WHEN v_added.is_new THEN p_reason ELSE 'replay' END,
		jsonb_build_object(
			'old', CASE WHEN NOT v_added.is_new THEN jsonb_build_object('bonus_id', v_bonus.id) END,
			'new', jsonb_build_object('bonus_id', v_bonus.id, 'amount', v_bonus.amount,
					'expires_at', v_bonus.expires_at, 'priority', v_bonus.priority, 'source', v_bonus.source)
				|| jsonb_strip_nulls(jsonb_build_object('giftable', nullif(v_bonus.giftable, false),
					'unit_cost', v_bonus.unit_cost, 'currency', v_bonus.currency,
					'transaction_id', v_bonus.transaction_id, 'repaid', nullif(v_repaid, 0)))),
		p_metric => v_bonus.metric,
		p_amount => v_bonus.amount);
	RETURN v_bonus.id;
END
$$;
COMMENT ON FUNCTION quota.grant_bonus(uuid, text, numeric, timestamptz, text, integer, text, boolean, numeric, text, text) IS
'Gives a subject units of a metric that are used after its allowance, for the overage of the current period first; returns the id of the bonus, for a transaction id that was used before that of the first';

-- Taken back -----------------------------------------------------------------------

CREATE FUNCTION quota.void_bonus(p_bonus_id uuid, p_reason text DEFAULT NULL) RETURNS numeric
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	v_old	quota.user_bonuses;
	v_new	quota.user_bonuses;
	v_now	timestamptz;
	v_taken	numeric;
BEGIN
	-- whose it is never changes, so it can be read before the lock
	SELECT * INTO v_old FROM quota.user_bonuses WHERE id = p_bonus_id;
	IF FOUND THEN
		PERFORM quota.lock_accounts(ARRAY[v_old.user_id], v_old.metric);
		-- what lapsed reservations held is free again
		PERFORM quota.tidy_account(v_old.user_id, v_old.metric);
		SELECT * INTO v_old FROM quota.user_bonuses WHERE id = p_bonus_id FOR NO KEY UPDATE;
	END IF;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown bonus %', coalesce(p_bonus_id::text, 'NULL')
			USING ERRCODE = '22023',
				HINT = 'Bonuses are the rows of quota.user_bonuses; grant_bonus and purchase_topup return their ids.';
	END IF;

	v_now := quota.clock();
	v_new := v_old;
	v_taken := 0;
	IF v_old.voided_at IS NULL THEN
		UPDATE quota.user_bonuses SET voided_at = v_now WHERE id = p_bonus_id RETURNING * INTO v_new;
		PERFORM quota.checked_write(v_new.id, 'quota.user_bonuses');
		-- an expired one had nothing that could be used
		IF v_old.expires_at IS NULL OR v_old.expires_at > v_now THEN
			v_taken := trim_scale(v_old.amount - v_old.used_amount - v_old.held_amount - v_old.given_amount);
		END IF;
	END IF;

	PERFORM quota.record_admin_act(v_now, 'void_bonus', v_old.user_id, p_reason,
		jsonb_build_object(
			'old', jsonb_build_object('bonus_id', v_old.id, 'amount', v_old.amount, 'used_amount', v_old.used_amount,
				'held_amount', v_old.held_amount, 'given_amount', v_old.given_amount, 'voided_at', v_old.voided_at),
			'new', jsonb_build_object('taken_back', v_taken, 'voided_at', v_new.voided_at)),
		p_metric => v_old.metric,
		p_amount => v_taken);
	RETURN v_taken;
END
$$;
COMMENT ON FUNCTION quota.void_bonus(uuid, text) IS
'Takes back what can still be used of a bonus and returns how much that was; what reservations hold stays with them; a second time changes nothing and returns 0';

-- Bought -----------------------------------------------------------------------------

CREATE FUNCTION quota.topup_price(
	p_user_id uuid,
	p_metric text,
	p_amount numeric,
	OUT plan text, OUT unit_price numeric, OUT price numeric, OUT currency text)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	v_metric	text;
	v_price		quota.topup_prices;
	v_overage	numeric;
BEGIN
	PERFORM quota.checked_user(p_user_id);
	v_metric := quota.resolve_metric(p_metric);
	PERFORM quota.checked_amount(p_amount);

	SELECT CASE WHEN s.pending_at <= quota.clock() THEN s.pending_plan ELSE s.plan END INTO plan
		FROM quota.subscriptions s WHERE s.user_id = p_user_id;
	IF NOT FOUND THEN
		plan := nullif(current_setting('quota.default_plan', true), '');
	END IF;
	IF plan IS NULL THEN
		RAISE EXCEPTION 'subject % has no plan, so it has no price list', p_user_id
			USING ERRCODE = '22023',
				HINT = 'Put it on a plan, or buy for the parent that has one.';
	END IF;

	SELECT t.* INTO v_price
		FROM quota.topup_prices t
		WHERE t.plan = topup_price.plan AND t.metric = v_metric AND t.min_amount <= p_amount
		ORDER BY t.min_amount DESC
		LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'no price for % of "%" on plan "%"', trim_scale(p_amount), v_metric, plan
			USING ERRCODE = '22023',
				DETAIL = coalesce(
					(SELECT format('The smallest purchase is %s.', trim_scale(min(t.min_amount)))
						FROM quota.topup_prices t
						WHERE t.plan = topup_price.plan AND t.metric = v_metric
						HAVING count(*) > 0),
					'The metric has no top-up prices on this plan.'),
				HINT = 'Prices are the rows of quota.topup_prices.';
	END IF;

	IF v_price.discount IS NULL THEN
		unit_price := v_price.unit_price;
	ELSE
		-- of several windows the longest is the allowance
		SELECT l.overage_price INTO v_overage
			FROM quota.plan_limits l
			WHERE l.plan = topup_price.plan AND l.metric = v_metric
			ORDER BY quota.period_length(l.period) DESC, l.period
			LIMIT 1;
		IF v_overage IS NULL THEN
			RAISE EXCEPTION 'no price for % of "%" on plan "%"', trim_scale(p_amount), v_metric, plan
				USING ERRCODE = '22023',
					DETAIL = 'The top-up price is a discount off the overage price of the limit, which has none.',
					HINT = 'Set plan_limits.overage_price, or topup_prices.unit_price instead of the discount.';
		END IF;
		unit_price := round(v_overage * (1 - v_price.discount), 12);
	END IF;
	unit_price := trim_scale(unit_price);
	price := trim_scale(unit_price * p_amount);
	currency := coalesce(v_price.currency, (SELECT p.currency FROM quota.plans p WHERE p.plan = topup_price.plan));
END
$$;
COMMENT ON FUNCTION quota.topup_price(uuid, text, numeric) IS
'What purchase_topup would charge for so many units now: by the price list of the subject''s plan; raises 22023 where it has no price';

CREATE FUNCTION quota.purchase_topup(
	p_user_id uuid,
	p_metric text,
	p_amount numeric,
	p_transaction_id text DEFAULT NULL,
	p_expires_at timestamptz DEFAULT NULL,
	p_reason text DEFAULT NULL)
	RETURNS TABLE (
		bonus_id uuid,
		amount numeric,
		unit_price numeric,
		price numeric,
		currency text,
		total_available numeric,
		transaction_id text,
		already_processed boolean)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	v_bonus		quota.user_bonuses;
	v_topup		quota.topups;
	v_added		record;
	v_repaid	numeric := 0;
BEGIN
	v_bonus.user_id := quota.checked_user(p_user_id);
	v_bonus.metric := quota.resolve_metric(p_metric);
	v_bonus.amount := quota.checked_amount(p_amount);
	PERFORM quota.checked_transaction(p_transaction_id);

	-- Repeats of one purchase meet here.  The first answer is given again even
	-- if the price list has changed or the expiry has come since.
	PERFORM quota.lock_accounts(ARRAY[p_user_id], v_bonus.metric);
	v_bonus.transaction_id := coalesce(p_transaction_id, 'topup_' || gen_random_uuid());
	v_topup.created_at := quota.clock();
	IF NOT EXISTS (SELECT FROM quota.user_bonuses b
			WHERE b.user_id = p_user_id AND b.metric = v_bonus.metric AND b.transaction_id = v_bonus.transaction_id) THEN
		v_bonus.expires_at := quota.checked_expiry(p_expires_at);
		SELECT t.plan, t.unit_price, t.price, t.currency
			INTO v_topup.plan, v_topup.unit_price, v_topup.price, v_topup.currency
			FROM quota.topup_price(p_user_id, v_bonus.metric, p_amount) AS t;
	END IF;
	v_bonus.reason := p_reason;
	v_bonus.priority := 50;
	v_bonus.source := 'paid';
	v_bonus.giftable := false;
	v_bonus.unit_cost := v_topup.unit_price;
	v_bonus.currency := v_topup.currency;
	v_bonus.granted_at := v_topup.created_at;
	SELECT * INTO v_added FROM quota.add_bonus(v_bonus);
	v_bonus := v_added.bonus;

	IF v_added.is_new THEN
		v_repaid := quota.repay_overage(p_user_id, v_bonus.metric);
		v_topup.bonus_id := v_bonus.id;
		v_topup.total_available := (SELECT o.remaining FROM quota.check_quota(p_user_id, v_bonus.metric) AS o);
		INSERT INTO quota.topups SELECT v_topup.* RETURNING * INTO v_topup;
		PERFORM quota.checked_write(v_topup.bonus_id, 'quota.topups');
	ELSE
		SELECT * INTO v_topup FROM quota.topups t WHERE t.bonus_id = v_bonus.id;
		IF NOT FOUND THEN
			RAISE EXCEPTION 'transaction "%" was no purchase', v_bonus.transaction_id
				USING ERRCODE = '22023',
					DETAIL = format('Bonus %s was granted with it.', v_bonus.id),
					HINT = 'Use a transaction id of its own for a purchase.';
		END IF;
	END IF;

	PERFORM quota.record_admin_act(quota.clock(), 'purchase_topup', p_user_id,
		CASE WHEN v_added.is_new THEN p_reason ELSE 'replay' END,
		jsonb_build_object(
			'old', CASE WHEN NOT v_added.is_new THEN jsonb_build_object('bonus_id', v_bonus.id) END,
			'new', jsonb_build_object('bonus_id', v_bonus.id, 'amount', v_bonus.amount,
					'expires_at', v_bonus.expires_at, 'plan', v_topup.plan, 'unit_price', v_topup.unit_price,
					'price', v_topup.price, 'currency', v_topup.currency, 'transaction_id', v_bonus.transaction_id)
				|| jsonb_strip_nulls(jsonb_build_object('repaid', nullif(v_repaid, 0)))),
		p_metric => v_bonus.metric,
		p_amount => v_bonus.amount);

	bonus_id := v_bonus.id;
	amount := trim_scale(v_bonus.amount);
	unit_price := v_topup.unit_price;
	price := v_topup.price;
	currency := v_topup.currency;
	total_available := v_topup.total_available;
	transaction_id := v_bonus.transaction_id;
	already_processed := NOT v_added.is_new;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION quota.purchase_topup(uuid, text, numeric, text, timestamptz, text) IS
'Records units that a subject has bought at the top-up price of its plan, and gives them as a paid bonus; the same transaction id buys once and is answered the same; taking the money is the caller''s';

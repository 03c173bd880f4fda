-- ---------------------------------------------------------------------------
-- Tables
--
-- The C code finds columns by position (src/catalog.h), so columns are only
-- ever added at the end of a table.  Tables that every call writes
-- (usage_tracking, usage_events, quota_audit_log) carry no foreign keys and
-- no CHECK constraints: the engine validates before it writes.
-- ---------------------------------------------------------------------------

-- What can be limited ------------------------------------------------------

CREATE TABLE quota.metrics (
	metric		text COLLATE "C" PRIMARY KEY CHECK (metric <> ''),
	kind		text COLLATE "C" NOT NULL DEFAULT 'counter'
				CHECK (kind IN ('counter', 'gauge', 'feature')),
	unit		text,
	unit_cost	numeric CHECK (unit_cost >= 0 AND unit_cost < 'Infinity'),
	description	text,
	created_at	timestamptz NOT NULL DEFAULT now(),
	http_status	integer CHECK (http_status BETWEEN 400 AND 599),
	gift_period	text COLLATE "C" CHECK (quota.canonical_period(gift_period) = gift_period),
	gift_sent_limit		numeric CHECK (quota.valid_limit(gift_sent_limit)),
	gift_received_limit	numeric CHECK (quota.valid_limit(gift_received_limit))
);
COMMENT ON TABLE quota.metrics IS
'What can be limited: a counter starts again each period, a gauge is a level that never resets, a feature is in a plan or is not';
COMMENT ON COLUMN quota.metrics.metric IS 'Name that callers pass';
COMMENT ON COLUMN quota.metrics.kind IS 'counter, gauge or feature';
COMMENT ON COLUMN quota.metrics.unit IS 'What one unit is called, for people';
COMMENT ON COLUMN quota.metrics.unit_cost IS 'What one unit costs the operator, in the currency of the plans';
COMMENT ON COLUMN quota.metrics.description IS 'For people';
COMMENT ON COLUMN quota.metrics.created_at IS 'When the row was added';
COMMENT ON COLUMN quota.metrics.http_status IS 'Status that http_response gives to a denial for lack of quota; NULL = by the length of the period';
COMMENT ON COLUMN quota.metrics.gift_period IS 'Calendar period in which gifts are counted; NULL = month';
COMMENT ON COLUMN quota.metrics.gift_sent_limit IS 'Units that a subject may give away in a gift period; NULL = unlimited';
COMMENT ON COLUMN quota.metrics.gift_received_limit IS 'Units that a subject may receive in a gift period; NULL = unlimited';

CREATE TABLE quota.metric_aliases (
	alias		text COLLATE "C" PRIMARY KEY CHECK (alias <> ''),
	metric		text COLLATE "C" NOT NULL REFERENCES quota.metrics ON DELETE CASCADE
);
COMMENT ON TABLE quota.metric_aliases IS
'Other names that callers may pass for a metric; answers and ledger always carry the metric''s own name';
COMMENT ON COLUMN quota.metric_aliases.alias IS 'Name that callers pass; where it is a metric''s own name too, the metric counts';
COMMENT ON COLUMN quota.metric_aliases.metric IS 'The metric that it stands for';

CREATE TABLE quota.plans (
	plan		text COLLATE "C" PRIMARY KEY CHECK (plan <> ''),
	description	text,
	price		numeric CHECK (price >= 0 AND price < 'Infinity'),
	currency	text CHECK (currency ~ '^[A-Z]{3}$'),
	created_at	timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE quota.plans IS 'The plans that subjects subscribe to';
COMMENT ON COLUMN quota.plans.plan IS 'Name that subscriptions and quota.default_plan refer to';
COMMENT ON COLUMN quota.plans.description IS 'For people';
COMMENT ON COLUMN quota.plans.price IS 'Price of the plan for a month';
COMMENT ON COLUMN quota.plans.currency IS 'ISO 4217 code of the price';
COMMENT ON COLUMN quota.plans.created_at IS 'When the row was added';

CREATE TABLE quota.plan_limits (
	plan			text COLLATE "C" NOT NULL REFERENCES quota.plans ON DELETE CASCADE,
	metric			text COLLATE "C" NOT NULL REFERENCES quota.metrics ON DELETE CASCADE,
	period			text COLLATE "C" NOT NULL,
	limit_amount	numeric CHECK (quota.valid_limit(limit_amount)),
	anchor			text COLLATE "C" NOT NULL DEFAULT 'calendar'
					CHECK (anchor IN ('calendar', 'subscription', 'first_use')),
	overage_price	numeric CHECK (quota.valid_price(overage_price)),
	mode			text COLLATE "C" NOT NULL DEFAULT 'hard' CHECK (mode IN ('hard', 'soft', 'shadow')),
	spend_cap		numeric CHECK (quota.valid_price(spend_cap)),
	repay_overage	boolean NOT NULL DEFAULT true,
	algorithm		text COLLATE "C" NOT NULL DEFAULT 'fixed' CHECK (algorithm IN ('fixed', 'sliding', 'gcra')),
	burst			numeric CHECK (burst > 0 AND quota.valid_limit(burst)),
	rollover_min	numeric CHECK (quota.valid_limit(rollover_min)),
	rollover_max	numeric CHECK (quota.valid_limit(rollover_max)),
	rollover_ttl	interval CHECK (rollover_ttl > '0' AND rollover_ttl <= '1000 years'),
	PRIMARY KEY (plan, metric, period),
	CHECK (algorithm = 'fixed' OR period <> 'lifetime'),
	CHECK (burst IS NULL OR algorithm = 'gcra'),
	-- what has no period has no end of it
	CHECK (algorithm = 'fixed' OR (spend_cap IS NULL AND rollover_max IS NULL))
);
COMMENT ON TABLE quota.plan_limits IS
'How much of a metric a plan allows in which period; several rows for one metric are several windows, each of which must have room';
COMMENT ON COLUMN quota.plan_limits.plan IS 'The plan';
COMMENT ON COLUMN quota.plan_limits.metric IS 'The metric that it limits';
COMMENT ON COLUMN quota.plan_limits.period IS
'minute, hour, day, week, month, quarter, year, lifetime, or a multiple such as "5 minutes"';
COMMENT ON COLUMN quota.plan_limits.limit_amount IS 'Units allowed in one period; NULL = unlimited, 0 = not in the plan';
COMMENT ON COLUMN quota.plan_limits.anchor IS
'What period boundaries are counted from: the calendar, the subscription''s anchor, or the first use';
COMMENT ON COLUMN quota.plan_limits.overage_price IS
'Price of a unit beyond the limit and the bonuses, where the mode is soft, in the currency of the plan; NULL = nothing; at most 12 decimals';
COMMENT ON COLUMN quota.plan_limits.mode IS
'hard: denies beyond the limit; soft: grants it as overage; shadow: grants it and records what it would have denied';
COMMENT ON COLUMN quota.plan_limits.spend_cap IS
'What the overage of one period may cost; beyond it a soft limit denies; NULL = no cap';
COMMENT ON COLUMN quota.plan_limits.repay_overage IS
'A new bonus first pays for the overage of the current period';
COMMENT ON COLUMN quota.plan_limits.algorithm IS
'fixed: periods that start again; sliding: no window of this length ever holds more than the limit; gcra: the limit per period as an even rate, with a burst';
COMMENT ON COLUMN quota.plan_limits.burst IS
'gcra: units that may come at once; NULL = limit_amount';
COMMENT ON COLUMN quota.plan_limits.rollover_min IS
'Units of a period that roll over even if fewer are unused; NULL = 0';
COMMENT ON COLUMN quota.plan_limits.rollover_max IS
'Unused units that become a bonus at the end of a period, at most; NULL = none roll over';
COMMENT ON COLUMN quota.plan_limits.rollover_ttl IS
'How long after the period''s end the bonus of a rollover can be used; NULL = for ever';

-- Who ----------------------------------------------------------------------

CREATE TABLE quota.subscriptions (
	user_id		uuid PRIMARY KEY,
	plan		text COLLATE "C" REFERENCES quota.plans,
	anchor		timestamptz NOT NULL DEFAULT quota.clock()
					CHECK (anchor BETWEEN '0001-01-01 00:00+00' AND '9999-12-31 00:00+00'),
	time_zone	text COLLATE "C" NOT NULL DEFAULT 'UTC' CHECK (quota.valid_time_zone(time_zone)),
	created_at	timestamptz NOT NULL DEFAULT quota.clock(),
	updated_at	timestamptz NOT NULL DEFAULT quota.clock(),
	parent		uuid,
	pending_plan	text COLLATE "C" REFERENCES quota.plans,
	pending_at	timestamptz,
	switches	integer NOT NULL DEFAULT 0,
	CHECK (parent <> user_id),
	CHECK ((pending_plan IS NULL) = (pending_at IS NULL))
);
COMMENT ON TABLE quota.subscriptions IS
'A subject (user, team, tenant) and its plan; a subject without a row has the plan that quota.default_plan names';
COMMENT ON COLUMN quota.subscriptions.user_id IS 'The subject';
COMMENT ON COLUMN quota.subscriptions.plan IS 'The plan whose limits count for it; NULL = none, only its parents'' limits count';
COMMENT ON COLUMN quota.subscriptions.anchor IS
'Instant from which periods with the anchor "subscription" are counted';
COMMENT ON COLUMN quota.subscriptions.time_zone IS
'Zone in which the subject''s days, weeks, months and years begin';
COMMENT ON COLUMN quota.subscriptions.created_at IS 'When the subject was first put on a plan';
COMMENT ON COLUMN quota.subscriptions.updated_at IS 'When assign_plan wrote the row last';
COMMENT ON COLUMN quota.subscriptions.parent IS 'Subject (team, organisation) that is charged along with this one; NULL = none';
COMMENT ON COLUMN quota.subscriptions.pending_plan IS 'Plan that counts from pending_at on; NULL = no change is due';
COMMENT ON COLUMN quota.subscriptions.pending_at IS 'When pending_plan becomes the plan, without anybody''s doing';
COMMENT ON COLUMN quota.subscriptions.switches IS 'How often the subject has changed its plan';

CREATE TABLE quota.limit_overrides (
	id				uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	user_id			uuid NOT NULL,
	metric			text COLLATE "C" NOT NULL REFERENCES quota.metrics ON DELETE CASCADE,
	period			text COLLATE "C",
	limit_amount	numeric CHECK (quota.valid_limit(limit_amount)),
	expires_at		timestamptz,
	reason			text,
	created_at		timestamptz NOT NULL DEFAULT quota.clock()
);
COMMENT ON TABLE quota.limit_overrides IS
'A limit for one subject that goes before the plan''s until it expires';
COMMENT ON COLUMN quota.limit_overrides.id IS 'Key of the row';
COMMENT ON COLUMN quota.limit_overrides.user_id IS 'The subject';
COMMENT ON COLUMN quota.limit_overrides.metric IS 'The metric that it limits';
COMMENT ON COLUMN quota.limit_overrides.period IS
'Window that is overridden; NULL = the allowance, the longest window of the plan in force (lifetime if the plan does not list the metric)';
COMMENT ON COLUMN quota.limit_overrides.limit_amount IS 'Units allowed in one period; NULL = unlimited, 0 = nothing';
COMMENT ON COLUMN quota.limit_overrides.expires_at IS 'From this instant on the plan''s limit counts again; NULL = until cleared';
COMMENT ON COLUMN quota.limit_overrides.reason IS 'What the admin wrote';
COMMENT ON COLUMN quota.limit_overrides.created_at IS 'When the override was set, or replaced last';

CREATE TABLE quota.recurring_bonuses (
	id			uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	user_id		uuid NOT NULL,
	metric		text COLLATE "C" NOT NULL REFERENCES quota.metrics ON DELETE CASCADE,
	amount		numeric NOT NULL CHECK (amount > 0 AND quota.valid_limit(amount)),
	period		text COLLATE "C" NOT NULL CHECK (period <> 'lifetime'),
	anchor		timestamptz NOT NULL DEFAULT quota.clock()
				CHECK (anchor BETWEEN '0001-01-01 00:00+00' AND '9999-12-31 00:00+00'),
	accumulates	boolean NOT NULL DEFAULT false,
	priority	integer NOT NULL DEFAULT 50,
	ends_at		timestamptz,
	reason		text,
	created_at	timestamptz NOT NULL DEFAULT quota.clock()
);
COMMENT ON TABLE quota.recurring_bonuses IS
'Bonuses that a subject gets anew in each period, without anybody''s doing; each becomes a row of user_bonuses when it is first needed';
COMMENT ON COLUMN quota.recurring_bonuses.id IS 'Key of the row, which set_recurring_bonus returned';
COMMENT ON COLUMN quota.recurring_bonuses.user_id IS 'The subject';
COMMENT ON COLUMN quota.recurring_bonuses.metric IS 'The metric that it pays for';
COMMENT ON COLUMN quota.recurring_bonuses.amount IS 'Units given in each period';
COMMENT ON COLUMN quota.recurring_bonuses.period IS 'How often: month, week, "2 weeks" and so on';
COMMENT ON COLUMN quota.recurring_bonuses.anchor IS 'First instant of the first period';
COMMENT ON COLUMN quota.recurring_bonuses.accumulates IS 'Do units stay when their period ends?  Then those of up to 24 periods in which nobody called are given, too';
COMMENT ON COLUMN quota.recurring_bonuses.priority IS 'Lower numbers are used first';
COMMENT ON COLUMN quota.recurring_bonuses.ends_at IS 'Nothing is given from this instant on; NULL = for ever';
COMMENT ON COLUMN quota.recurring_bonuses.reason IS 'What the admin wrote';
COMMENT ON COLUMN quota.recurring_bonuses.created_at IS 'When the row was added';

-- Accounts -----------------------------------------------------------------

CREATE TABLE quota.usage_tracking (
	user_id			uuid NOT NULL,
	metric			text COLLATE "C" NOT NULL,
	period			text COLLATE "C" NOT NULL,
	period_start	timestamptz NOT NULL,
	period_end		timestamptz,
	used			numeric NOT NULL DEFAULT 0,
	bonus_used		numeric NOT NULL DEFAULT 0,
	overage			numeric NOT NULL DEFAULT 0,
	held			numeric NOT NULL DEFAULT 0,
	anchor			timestamptz,
	cost			numeric NOT NULL DEFAULT 0,
	held_cost		numeric NOT NULL DEFAULT 0,
	holds_expire_at	timestamptz,
	rate_at			timestamptz,
	rate_state		numeric[]
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE quota.usage_tracking
	ADD CONSTRAINT idx_usage_tracking_quota_lookup PRIMARY KEY (user_id, metric, period);
COMMENT ON TABLE quota.usage_tracking IS
'The accounts: what a subject has used of a metric in the current period, one row per window; written by the engine only';
COMMENT ON COLUMN quota.usage_tracking.user_id IS 'The subject';
COMMENT ON COLUMN quota.usage_tracking.metric IS 'The metric';
COMMENT ON COLUMN quota.usage_tracking.period IS 'The window, as the limit''s period names it';
COMMENT ON COLUMN quota.usage_tracking.period_start IS 'First instant of the current period';
COMMENT ON COLUMN quota.usage_tracking.period_end IS 'First instant after the current period; NULL = never ends';
COMMENT ON COLUMN quota.usage_tracking.used IS 'Units taken from the allowance in the current period (in a rate window: all units)';
COMMENT ON COLUMN quota.usage_tracking.bonus_used IS 'Units taken from bonuses in the current period';
COMMENT ON COLUMN quota.usage_tracking.overage IS 'Units granted beyond the allowance and the bonuses in the current period';
COMMENT ON COLUMN quota.usage_tracking.held IS 'Units of the allowance that reservations of the current period set aside (in a rate window: all their units); may include some that have expired and were not tidied yet';
COMMENT ON COLUMN quota.usage_tracking.anchor IS 'First use, from which the periods of a first_use limit are counted';
COMMENT ON COLUMN quota.usage_tracking.cost IS 'What the overage of the current period costs';
COMMENT ON COLUMN quota.usage_tracking.held_cost IS 'What the overage that reservations of the current period hold would cost';
COMMENT ON COLUMN quota.usage_tracking.holds_expire_at IS 'No reservation expires before this; NULL = none was made since all had expired';
COMMENT ON COLUMN quota.usage_tracking.rate_at IS 'Instant that rate_state describes; NULL unless the window is sliding or gcra';
COMMENT ON COLUMN quota.usage_tracking.rate_state IS 'gcra: how full the bucket is; sliding: units by slot of the window, newest first';

CREATE TABLE quota.usage_history (
	id				uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	user_id			uuid NOT NULL,
	metric			text COLLATE "C" NOT NULL,
	period			text COLLATE "C" NOT NULL,
	period_start	timestamptz NOT NULL,
	period_end		timestamptz NOT NULL,
	used			numeric NOT NULL,
	bonus_used		numeric NOT NULL,
	overage			numeric NOT NULL,
	limit_amount	numeric,
	closed_at		timestamptz NOT NULL,
	cost			numeric NOT NULL DEFAULT 0,
	held			numeric NOT NULL DEFAULT 0,
	held_cost		numeric NOT NULL DEFAULT 0
);
COMMENT ON TABLE quota.usage_history IS
'Closed periods: the last state of an account, written when the account moves on to a new period';
COMMENT ON COLUMN quota.usage_history.id IS 'UUID version 7 of closed_at: ordered by time';
COMMENT ON COLUMN quota.usage_history.user_id IS 'The subject';
COMMENT ON COLUMN quota.usage_history.metric IS 'The metric';
COMMENT ON COLUMN quota.usage_history.period IS 'The window, as the limit''s period names it';
COMMENT ON COLUMN quota.usage_history.period_start IS 'First instant of the period';
COMMENT ON COLUMN quota.usage_history.period_end IS 'First instant after the period';
COMMENT ON COLUMN quota.usage_history.used IS 'Units taken from the allowance in the period (in a rate window: all units)';
COMMENT ON COLUMN quota.usage_history.bonus_used IS 'Units taken from bonuses in the period';
COMMENT ON COLUMN quota.usage_history.overage IS 'Units granted beyond the allowance and the bonuses in the period';
COMMENT ON COLUMN quota.usage_history.limit_amount IS 'The limit in force when the period was closed; NULL = unlimited';
COMMENT ON COLUMN quota.usage_history.closed_at IS 'When the account moved on; may be long after period_end, and nothing is lost by that';
COMMENT ON COLUMN quota.usage_history.cost IS 'What the overage of the period costs';
COMMENT ON COLUMN quota.usage_history.held IS 'Units that reservations made in the period still hold';
COMMENT ON COLUMN quota.usage_history.held_cost IS 'What the overage that they hold would cost';

-- Bonuses ------------------------------------------------------------------

CREATE TABLE quota.user_bonuses (
	id			uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	user_id		uuid NOT NULL,
	metric		text COLLATE "C" NOT NULL REFERENCES quota.metrics,
	-- checked as the caller of a call that takes from it, so no function of ours
	amount		numeric NOT NULL CHECK (amount > 0 AND amount < 1e18 AND amount = round(amount, 6)),
	used_amount	numeric NOT NULL DEFAULT 0 CHECK (used_amount >= 0 AND used_amount <= amount),
	priority	integer NOT NULL DEFAULT 50,
	expires_at	timestamptz,
	source		text COLLATE "C" NOT NULL DEFAULT 'promotional'
				CHECK (source IN ('promotional', 'paid', 'gift', 'rollover', 'refill')),
	reason		text,
	granted_at	timestamptz NOT NULL DEFAULT quota.clock(),
	available	boolean GENERATED ALWAYS AS (used_amount + given_amount < amount AND voided_at IS NULL) STORED,
	held_amount	numeric NOT NULL DEFAULT 0,
	given_amount	numeric NOT NULL DEFAULT 0,
	voided_at	timestamptz,
	giftable	boolean NOT NULL DEFAULT false,
	unit_cost	numeric CHECK (unit_cost >= 0 AND unit_cost < 'Infinity'),
	currency	text CHECK (currency ~ '^[A-Z]{3}$'),
	transaction_id	text,
	CHECK (held_amount >= 0 AND given_amount >= 0 AND used_amount + held_amount + given_amount <= amount)
) WITH (fillfactor = 70);
COMMENT ON TABLE quota.user_bonuses IS
'Credits that are used after the allowance, lowest priority number first, then soonest expiry, promotional before paid, oldest';
COMMENT ON COLUMN quota.user_bonuses.id IS 'Key of the bonus, which grant_bonus returned';
COMMENT ON COLUMN quota.user_bonuses.user_id IS 'The subject';
COMMENT ON COLUMN quota.user_bonuses.metric IS 'The metric that it pays for';
COMMENT ON COLUMN quota.user_bonuses.amount IS 'Units given';
COMMENT ON COLUMN quota.user_bonuses.used_amount IS 'Units of amount that were taken so far';
COMMENT ON COLUMN quota.user_bonuses.expires_at IS 'First instant at which the rest can no longer be used; NULL = never expires';
COMMENT ON COLUMN quota.user_bonuses.priority IS 'Lower numbers are used first';
COMMENT ON COLUMN quota.user_bonuses.source IS 'promotional, paid, gift, rollover or refill; of equal priority and expiry, paid credits are used last';
COMMENT ON COLUMN quota.user_bonuses.reason IS 'What the admin wrote';
COMMENT ON COLUMN quota.user_bonuses.granted_at IS 'When it was given';
COMMENT ON COLUMN quota.user_bonuses.available IS 'False once the bonus is used up, given away or void, which takes it out of the lookup index';
COMMENT ON COLUMN quota.user_bonuses.held_amount IS 'Units of amount that reservations set aside';
COMMENT ON COLUMN quota.user_bonuses.given_amount IS 'Units of amount that were given to others';
COMMENT ON COLUMN quota.user_bonuses.voided_at IS 'When the rest was taken back; NULL = it was not';
COMMENT ON COLUMN quota.user_bonuses.giftable IS 'May units be given to another subject?';
COMMENT ON COLUMN quota.user_bonuses.unit_cost IS 'What was paid for one unit; NULL = nothing, or unknown';
COMMENT ON COLUMN quota.user_bonuses.currency IS 'ISO 4217 code of unit_cost';
COMMENT ON COLUMN quota.user_bonuses.transaction_id IS 'The purchase that it came from';

-- Ledger -------------------------------------------------------------------

CREATE TABLE quota.usage_events (
	id				uuid PRIMARY KEY,
	user_id			uuid NOT NULL,
	metric			text COLLATE "C" NOT NULL,
	kind			text COLLATE "C" NOT NULL,
	amount			numeric NOT NULL,
	bonus_used		numeric NOT NULL,
	period			text COLLATE "C" NOT NULL,
	rate_periods	text[] COLLATE "C",
	key_hash		bytea,
	outcome			quota.outcome,
	metadata		jsonb,
	created_at		timestamptz NOT NULL,
	overage			numeric NOT NULL DEFAULT 0,
	cost			numeric NOT NULL DEFAULT 0,
	requested		numeric,
	effective_at	timestamptz,
	refers_to		uuid,
	expires_at		timestamptz,
	held			numeric,
	held_bonus		numeric,
	held_overage	numeric,
	held_cost		numeric
);
COMMENT ON TABLE quota.usage_events IS
'The ledger: one row for each request that moved quota; append-only';
COMMENT ON COLUMN quota.usage_events.id IS 'UUID version 7 of created_at: ordered by time, so "id >= bound" selects by time';
COMMENT ON COLUMN quota.usage_events.user_id IS 'The subject';
COMMENT ON COLUMN quota.usage_events.metric IS 'The metric, aliases resolved';
COMMENT ON COLUMN quota.usage_events.kind IS 'What moved the quota: consume, release, set_gauge, adjust, reserve, settle, cancel, expire, refund or repay';
COMMENT ON COLUMN quota.usage_events.amount IS 'Units used by it: allowance, bonuses and overage together; negative where they were given back';
COMMENT ON COLUMN quota.usage_events.bonus_used IS 'Units of amount that bonuses paid for; see bonus_allocations';
COMMENT ON COLUMN quota.usage_events.period IS 'Window that was charged as the allowance; the period is the one that contains effective_at, or else created_at';
COMMENT ON COLUMN quota.usage_events.rate_periods IS 'Shorter windows of the same metric that were charged with the full amount; NULL = none';
COMMENT ON COLUMN quota.usage_events.key_hash IS 'SHA-256 of subject, metric and idempotency key; the key itself is not stored';
COMMENT ON COLUMN quota.usage_events.outcome IS 'The answer that was given, kept for replays; NULL without a key';
COMMENT ON COLUMN quota.usage_events.metadata IS 'The JSON object that the caller gave; NULL = none';
COMMENT ON COLUMN quota.usage_events.created_at IS 'Time of the decision, taken while the account was locked';
COMMENT ON COLUMN quota.usage_events.overage IS 'Units of amount beyond the allowance and the bonuses';
COMMENT ON COLUMN quota.usage_events.cost IS 'What the overage costs';
COMMENT ON COLUMN quota.usage_events.requested IS 'Units that were asked for; NULL = as many as were moved';
COMMENT ON COLUMN quota.usage_events.effective_at IS 'Instant whose period the units belong to, that of the event that is undone or completed; NULL = created_at';
COMMENT ON COLUMN quota.usage_events.refers_to IS 'The event that this one undoes (refund) or completes (settle, cancel, expire); or whose overage it pays for (repay); of the other subjects charged by one call, the event of the first; NULL = none';
COMMENT ON COLUMN quota.usage_events.expires_at IS 'reserve: first instant at which the units are no longer set aside';
COMMENT ON COLUMN quota.usage_events.held IS 'Units set aside by it; negative where they no longer are; NULL = none';
COMMENT ON COLUMN quota.usage_events.held_bonus IS 'Units of held that bonuses set aside; NULL = none';
COMMENT ON COLUMN quota.usage_events.held_overage IS 'Units of held beyond the allowance and the bonuses; NULL = none';
COMMENT ON COLUMN quota.usage_events.held_cost IS 'What held_overage would cost; NULL = nothing';

CREATE TABLE quota.bonus_allocations (
	event_id	uuid NOT NULL,
	bonus_id	uuid NOT NULL,
	amount		numeric NOT NULL,
	held		numeric NOT NULL DEFAULT 0,
	ordinal		integer NOT NULL DEFAULT 1,
	expired		boolean NOT NULL DEFAULT false,
	PRIMARY KEY (event_id, bonus_id)
);
COMMENT ON TABLE quota.bonus_allocations IS
'Which event took how much from which bonus, one line each; append-only';
COMMENT ON COLUMN quota.bonus_allocations.event_id IS 'The event in usage_events';
COMMENT ON COLUMN quota.bonus_allocations.bonus_id IS 'The bonus in user_bonuses';
COMMENT ON COLUMN quota.bonus_allocations.amount IS 'Units taken from this bonus by this event; negative where they were given back';
COMMENT ON COLUMN quota.bonus_allocations.held IS 'Units of this bonus set aside by this event; negative where they no longer are';
COMMENT ON COLUMN quota.bonus_allocations.ordinal IS 'Place of the bonus in the order in which the event took from them; units go back from the last';
COMMENT ON COLUMN quota.bonus_allocations.expired IS 'Units went back to a bonus that could no longer be used: they are lost';

CREATE TABLE quota.quota_audit_log (
	id					uuid PRIMARY KEY,
	user_id				uuid,
	metric				text COLLATE "C",
	attempted_amount	numeric,
	success				boolean NOT NULL,
	reason				text COLLATE "C" NOT NULL,
	plan_limit			numeric,
	current_usage		numeric,
	remaining			numeric,
	period				text COLLATE "C",
	action				text COLLATE "C" NOT NULL,
	event_id			uuid,
	waited				boolean NOT NULL DEFAULT false,
	actor				text,
	detail				jsonb,
	created_at			timestamptz NOT NULL
);
COMMENT ON TABLE quota.quota_audit_log IS
'Every decision (granted, denied, replayed) and every admin act; append-only';
COMMENT ON COLUMN quota.quota_audit_log.id IS 'UUID version 7 of created_at: ordered by time, so "id >= bound" selects by time';
COMMENT ON COLUMN quota.quota_audit_log.user_id IS 'The subject; NULL for an act that concerns no single one';
COMMENT ON COLUMN quota.quota_audit_log.metric IS 'The metric, aliases resolved; NULL for an act that concerns none';
COMMENT ON COLUMN quota.quota_audit_log.attempted_amount IS 'Units requested, or given by grant_bonus; NULL for other acts';
COMMENT ON COLUMN quota.quota_audit_log.success IS 'Granted, or replayed from a grant; true for an admin act';
COMMENT ON COLUMN quota.quota_audit_log.reason IS 'Reason of the outcome; "replay" when the answer to an earlier call was given again; what the admin wrote for an admin act';
COMMENT ON COLUMN quota.quota_audit_log.plan_limit IS 'The binding limit; NULL = unlimited or none';
COMMENT ON COLUMN quota.quota_audit_log.current_usage IS 'Allowance used after the decision';
COMMENT ON COLUMN quota.quota_audit_log.remaining IS 'What was left after the decision, bonuses included; NULL = unlimited';
COMMENT ON COLUMN quota.quota_audit_log.period IS 'Period of the binding limit, or of an override; NULL = none, or the allowance';
COMMENT ON COLUMN quota.quota_audit_log.action IS 'consume, or the admin function that was called';
COMMENT ON COLUMN quota.quota_audit_log.event_id IS 'The event of the grant, also for a replay; NULL = none';
COMMENT ON COLUMN quota.quota_audit_log.waited IS 'The call met another one on the same account and had to wait for it';
COMMENT ON COLUMN quota.quota_audit_log.actor IS 'Login role of an admin act; NULL for decisions';
COMMENT ON COLUMN quota.quota_audit_log.detail IS 'Old and new values of an admin act';
COMMENT ON COLUMN quota.quota_audit_log.created_at IS 'Time of the decision or act';

-- Indexes ------------------------------------------------------------------

-- The only other index on the accounts.  It holds nothing that changes between
-- two period ends: a column such as "used" in here would end heap-only updates.
CREATE INDEX idx_usage_tracking_monitoring_dashboard
	ON quota.usage_tracking (metric, period, period_end);
COMMENT ON INDEX quota.idx_usage_tracking_monitoring_dashboard IS
'Open accounts of a metric, for dashboards and for closing idle periods';

CREATE UNIQUE INDEX idx_usage_events_idempotency_lookup
	ON quota.usage_events (key_hash) WHERE key_hash IS NOT NULL;
COMMENT ON INDEX quota.idx_usage_events_idempotency_lookup IS
'Finds the earlier call with the same key; the backstop that makes a second charge impossible';

CREATE INDEX idx_usage_events_refers_to
	ON quota.usage_events (refers_to) WHERE refers_to IS NOT NULL;
COMMENT ON INDEX quota.idx_usage_events_refers_to IS
'What undid or completed an event, and what else its call charged';

CREATE INDEX idx_usage_events_holds
	ON quota.usage_events (user_id, metric, expires_at) WHERE expires_at IS NOT NULL;
COMMENT ON INDEX quota.idx_usage_events_holds IS 'Reservations of a subject and metric by expiry';

CREATE INDEX idx_usage_events_user ON quota.usage_events (user_id, id);
COMMENT ON INDEX quota.idx_usage_events_user IS 'Ledger of one subject by time';

CREATE INDEX idx_user_bonuses_available
	ON quota.user_bonuses (user_id, metric) WHERE available;
COMMENT ON INDEX quota.idx_user_bonuses_available IS
'Bonuses that still hold something; used-up ones drop out';

CREATE INDEX idx_user_bonuses_user ON quota.user_bonuses (user_id);
COMMENT ON INDEX quota.idx_user_bonuses_user IS 'All bonuses of a subject, used up or not';

CREATE INDEX idx_bonus_allocations_bonus ON quota.bonus_allocations (bonus_id);
COMMENT ON INDEX quota.idx_bonus_allocations_bonus IS 'What was taken from one bonus';

CREATE UNIQUE INDEX idx_limit_overrides_lookup
	ON quota.limit_overrides (user_id, metric, (coalesce(period, '')));
COMMENT ON INDEX quota.idx_limit_overrides_lookup IS 'Overrides of a subject and metric; one for each window';

CREATE INDEX idx_recurring_bonuses_lookup ON quota.recurring_bonuses (user_id, metric);
COMMENT ON INDEX quota.idx_recurring_bonuses_lookup IS 'Recurring bonuses of a subject and metric';

CREATE INDEX idx_usage_history_account
	ON quota.usage_history (user_id, metric, period, period_start);
COMMENT ON INDEX quota.idx_usage_history_account IS 'Closed periods of an account by time';

CREATE INDEX idx_quota_audit_log_denials
	ON quota.quota_audit_log (user_id, id) WHERE NOT success;
COMMENT ON INDEX quota.idx_quota_audit_log_denials IS 'Denials of a subject by time';

CREATE INDEX idx_subscriptions_parent ON quota.subscriptions (parent) WHERE parent IS NOT NULL;
COMMENT ON INDEX quota.idx_subscriptions_parent IS 'Members of a team or organisation';

CREATE INDEX idx_subscriptions_plan ON quota.subscriptions (plan);
COMMENT ON INDEX quota.idx_subscriptions_plan IS 'Subscribers of a plan';

-- Triggers -----------------------------------------------------------------

CREATE FUNCTION quota.canonicalize_period() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	NEW.period := quota.canonical_period(NEW.period);
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION quota.canonicalize_period() IS 'Trigger: writes a period in its one spelling, or raises 22023';

CREATE TRIGGER canonicalize_period BEFORE INSERT OR UPDATE ON quota.plan_limits
	FOR EACH ROW EXECUTE FUNCTION quota.canonicalize_period();
CREATE TRIGGER canonicalize_period BEFORE INSERT OR UPDATE ON quota.limit_overrides
	FOR EACH ROW EXECUTE FUNCTION quota.canonicalize_period();
CREATE TRIGGER canonicalize_period BEFORE INSERT OR UPDATE ON quota.recurring_bonuses
	FOR EACH ROW EXECUTE FUNCTION quota.canonicalize_period();
COMMENT ON TRIGGER canonicalize_period ON quota.plan_limits IS 'Writes the period in its one spelling';
COMMENT ON TRIGGER canonicalize_period ON quota.limit_overrides IS 'Writes the period in its one spelling';
COMMENT ON TRIGGER canonicalize_period ON quota.recurring_bonuses IS 'Writes the period in its one spelling';

CREATE FUNCTION quota.invalidate_limits() RETURNS trigger
	AS 'MODULE_PATHNAME', 'quota_invalidate_limits'
	LANGUAGE C;
COMMENT ON FUNCTION quota.invalidate_limits() IS
'Trigger: makes every session read the limits again once the change commits';

-- By row, because a subscriber's apply worker fires no other triggers; ENABLE ALWAYS,
-- so that it fires these.  Before the row is written as well as after it: a call
-- inside the statement reads what the statement has written so far, and must not keep
-- that if the statement fails before its AFTER triggers are due.
DO $$
DECLARE
	v_table	text;
BEGIN
	FOREACH v_table IN ARRAY ARRAY['metrics', 'metric_aliases', 'plans', 'plan_limits', 'limit_overrides', 'recurring_bonuses'] LOOP
		EXECUTE format('CREATE TRIGGER invalidate_limits_before BEFORE INSERT OR UPDATE OR DELETE ON quota.%I
			FOR EACH ROW EXECUTE FUNCTION quota.invalidate_limits()', v_table);
		EXECUTE format('CREATE TRIGGER invalidate_limits AFTER INSERT OR UPDATE OR DELETE ON quota.%I
			FOR EACH ROW EXECUTE FUNCTION quota.invalidate_limits()', v_table);
		EXECUTE format('CREATE TRIGGER invalidate_limits_truncate AFTER TRUNCATE ON quota.%I
			FOR EACH STATEMENT EXECUTE FUNCTION quota.invalidate_limits()', v_table);
		EXECUTE format('ALTER TABLE quota.%I
			ENABLE ALWAYS TRIGGER invalidate_limits_before,
			ENABLE ALWAYS TRIGGER invalidate_limits,
			ENABLE ALWAYS TRIGGER invalidate_limits_truncate', v_table);
		EXECUTE format('COMMENT ON TRIGGER invalidate_limits_before ON quota.%I IS
			''Has calls inside the statement read the limits again, also if it fails before its AFTER triggers''', v_table);
		EXECUTE format('COMMENT ON TRIGGER invalidate_limits ON quota.%I IS
			''Has every session read the limits again once the change commits''', v_table);
		EXECUTE format('COMMENT ON TRIGGER invalidate_limits_truncate ON quota.%I IS
			''Has every session read the limits again once the TRUNCATE commits''', v_table);
	END LOOP;
END
$$;

-- Dump ---------------------------------------------------------------------

-- All rows are the user's (the extension installs none), so pg_dump takes all.
SELECT pg_catalog.pg_extension_config_dump('quota.metrics', '');
SELECT pg_catalog.pg_extension_config_dump('quota.metric_aliases', '');
SELECT pg_catalog.pg_extension_config_dump('quota.plans', '');
SELECT pg_catalog.pg_extension_config_dump('quota.plan_limits', '');
SELECT pg_catalog.pg_extension_config_dump('quota.subscriptions', '');
SELECT pg_catalog.pg_extension_config_dump('quota.limit_overrides', '');
SELECT pg_catalog.pg_extension_config_dump('quota.recurring_bonuses', '');
SELECT pg_catalog.pg_extension_config_dump('quota.usage_tracking', '');
SELECT pg_catalog.pg_extension_config_dump('quota.usage_history', '');
SELECT pg_catalog.pg_extension_config_dump('quota.user_bonuses', '');
SELECT pg_catalog.pg_extension_config_dump('quota.usage_events', '');
SELECT pg_catalog.pg_extension_config_dump('quota.bonus_allocations', '');
SELECT pg_catalog.pg_extension_config_dump('quota.quota_audit_log', '');

/*-------------------------------------------------------------------------
 *
 * status.c
 *	  SQL function that tells all limits of a subject and their state.
 *
 * Reads with the engine's own functions, so that it cannot tell anything else
 * than the engine would decide on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define QUOTA_COMPAT_SRF
#include "amount_numeric.h"
#include "compat.h"
#include "guard.h"
#include "guc.h"
#include "charge.h"

#define STATUS_COLUMNS	15

PG_FUNCTION_INFO_V1(quota_get_user_quota_status);

/* What can be used at once: the limit, or the burst of a gcra limit */
static Amount
capacity(const WindowState *state)
{
	return state->rate ? rate_capacity(state->rate) : state->limit;
}

/* Share of the limit that is used, in hundredths of a percent, rounded */
static Amount
percent_used(const WindowState *state)
{
	Amount		limit = capacity(state);

	if (limit == 0)
		return state->used > 0 ? 100 * AMOUNT_UNIT : 0;
	/* round to two decimals, half up */
	return (state->used * 10000 + limit / 2) / limit * (AMOUNT_UNIT / 100);
}

static const char *
severity(const WindowState *state)
{
	Amount		limit = capacity(state);

	if (state->unlimited || (limit == 0 && state->used == 0))
		return "ok";
	if (state->used >= limit)
		return "exceeded";
	if (state->used * 100 >= limit * 95)
		return "critical";
	if (state->used * 100 >= limit * 80)
		return "warning";
	return "ok";
}

static void
put_limit(ReturnSetInfo *rsinfo, const Charge *charge, int i)
{
	const Account *account = charge->accounts[i];
	const WindowState *state = &charge->states[i];
	Amount		bonus = i == charge->limits.allowance ?
		charge->decision.before.bonus_remaining : 0;
	Amount		room = amount_max(capacity(state) - state->used - state->held, 0) + bonus;
	Datum		values[STATUS_COLUMNS] = {0};
	bool		nulls[STATUS_COLUMNS] = {false};

	values[0] = CStringGetTextDatum(charge->limits.metric);
	values[1] = CStringGetTextDatum(account->limit->period_name);
	if (charge->limits.plan)
		values[2] = CStringGetTextDatum(charge->limits.plan);
	nulls[2] = (charge->limits.plan == NULL);
	values[4] = amount_get_datum(state->used);
	values[5] = amount_get_datum(bonus);
	if (state->unlimited)
		nulls[3] = nulls[6] = nulls[7] = true;
	else
	{
		values[3] = amount_get_datum(state->limit);
		values[6] = amount_get_datum(room);
		values[7] = amount_get_datum(percent_used(state));
	}
	values[8] = CStringGetTextDatum(severity(state));
	values[9] = TimestampTzGetDatum(account->current.start);
	values[10] = TimestampTzGetDatum(state->resets_at);
	nulls[10] = (state->resets_at == DT_NOEND);
	values[11] = UUIDPGetDatum(&charge->user_id);
	values[12] = amount_get_datum(account->current.overage);
	values[13] = money_get_datum(account->current.cost);
	values[14] = amount_get_datum(state->held);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_metric(RelationSet *set, ReturnSetInfo *rsinfo, const pg_uuid_t *user_id,
		   const char *metric)
{
	RelationView view = guc_caller_snapshot_rules() ? VIEW_CALLER : VIEW_LATEST;
	Charge		charge = {.user_id = *user_id, .metric = metric};

	charge_read_as_of(set, &charge, 1, view, DT_NOBEGIN);
	charge_decide(&charge, AMOUNT_UNIT);
	charge_register(set, &charge, false);
	for (int i = 0; i < charge.limits.nlimits; i++)
		put_limit(rsinfo, &charge, i);
}

Datum
quota_get_user_quota_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	pg_uuid_t	user_id;
	const Subscription *subscription;
	RelationSet *set;
	MemoryContext old;
	ListCell   *lc;

	guard_can_read("get_user_quota_status()");
	user_id = guard_user_id(fcinfo, 0);
	compat_init_materialized_srf(fcinfo);
	set = relations_begin(false, 0);
	old = MemoryContextSwitchTo(relations_context(set));
	for (int level = 0; level < LIMIT_MAX_LEVELS; level++)
	{
		foreach(lc, limit_metrics(set, &user_id, clock_now()))
			put_metric(set, rsinfo, &user_id, lfirst(lc));
		subscription = limit_subscription(set, &user_id);
		if (!subscription->has_parent)
			break;
		user_id = subscription->parent;
	}
	MemoryContextSwitchTo(old);
	relations_end(set);
	return (Datum) 0;
}

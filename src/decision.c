/*-------------------------------------------------------------------------
 *
 * decision.c
 *	  Decides a request; see decision.h.
 *
 * Pure: no I/O, no allocation, no clock, no PostgreSQL header.
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "decision.h"

/*
 * Order in which bonuses are used: lowest priority number, soonest expiry
 * (never = last), promotional before paid, oldest, id.
 */
int
bonus_compare(const BonusState *a, const BonusState *b)
{
	if (a->priority != b->priority)
		return a->priority < b->priority ? -1 : 1;
	if (a->expires_at != b->expires_at)
		return a->expires_at < b->expires_at ? -1 : 1;
	if (a->paid != b->paid)
		return a->paid ? 1 : -1;
	if (a->granted_at != b->granted_at)
		return a->granted_at < b->granted_at ? -1 : 1;
	return memcmp(a->id, b->id, sizeof(a->id));
}

const char *
decision_reason_name(DecisionReason reason)
{
	switch (reason)
	{
		case REASON_OK:
			return "ok";
		case REASON_BONUS:
			return "bonus";
		case REASON_QUOTA_EXCEEDED:
			return "quota_exceeded";
		case REASON_NOT_IN_PLAN:
			return "not_in_plan";
		case REASON_IDEMPOTENCY_CONFLICT:
			return "idempotency_conflict";
	}
	return "unknown";
}

/* What a finite window still allows by itself; a lowered limit leaves 0 */
static Amount
window_room(const WindowState *l, Amount charged)
{
	return amount_max(l->limit - l->used - l->held - charged, 0);
}

/* Is window a the longer one?  The allowance is, among equals. */
static bool
window_longer(const DecisionInput *in, int a, int b)
{
	if (in->limits[a].length != in->limits[b].length)
		return in->limits[a].length > in->limits[b].length;
	return a == in->allowance;
}

/*
 * Report the window with the least room, given what this request has charged
 * to the allowance and to the rate windows and what bonuses are left.
 */
static void
report(const DecisionInput *in, Amount to_allowance, Amount to_rate,
	   Amount bonus_left, LimitReport *out)
{
	out->binding = -1;
	out->unlimited = false;
	out->remaining = 0;
	out->used = 0;
	out->bonus_remaining = bonus_left;

	for (int i = 0; i < in->nlimits; i++)
	{
		const WindowState *l = &in->limits[i];
		bool		allowance = (i == in->allowance);
		Amount		charged = allowance ? to_allowance : to_rate;
		Amount		room = 0;
		bool		tighter;

		if (!l->unlimited)
			room = window_room(l, charged) + (allowance ? bonus_left : 0);

		if (out->binding < 0)
			tighter = true;
		else if (l->unlimited != out->unlimited)
			tighter = out->unlimited;
		else if (!l->unlimited && room != out->remaining)
			tighter = room < out->remaining;
		else
			tighter = window_longer(in, i, out->binding);

		if (tighter)
		{
			out->binding = i;
			out->unlimited = l->unlimited;
			out->remaining = room;
			out->used = l->used + charged;
		}
	}
}

/*
 * What a finite window allows at "at", now or later, if nothing else happens:
 * by then its period may have started again, and bonuses may have expired.
 */
static Amount
window_room_at(const DecisionInput *in, int i, int64_t at)
{
	const WindowState *l = &in->limits[i];
	Amount		room = l->limit - l->held - (at < l->resets_at ? l->used : 0);

	room = amount_max(room, 0);
	for (int b = 0; i == in->allowance && b < in->nbonuses; b++)
		if (in->bonuses[b].expires_at > at)
			room += in->bonuses[b].left;
	return room;
}

/* How long to wait until "at"; NEVER stays never */
static int64_t
time_until(const DecisionInput *in, int64_t at)
{
	if (at == DECISION_NEVER)
		return DECISION_NEVER;
	return at > in->now ? at - in->now : 0;
}

/*
 * When a window that lacks room now would admit the request by itself: at the
 * end of its period, if a fresh one is enough.
 */
static int64_t
window_retry_after(const DecisionInput *in, int i)
{
	int64_t		at = in->limits[i].resets_at;

	if (at == DECISION_NEVER || window_room_at(in, i, at) < in->amount)
		return DECISION_NEVER;
	return time_until(in, at);
}

/*
 * When all windows together would admit a request that is denied now.  Room
 * only grows at the ends of periods, and each window has its room back after
 * the first.
 */
static int64_t
retry_after(const DecisionInput *in)
{
	int64_t		earliest = DECISION_NEVER;

	for (int i = 0; i < in->nlimits; i++)
	{
		int64_t		at = in->limits[i].resets_at;
		bool		admits = at < earliest;

		for (int j = 0; admits && j < in->nlimits; j++)
			admits = in->limits[j].unlimited || window_room_at(in, j, at) >= in->amount;
		if (admits)
			earliest = at;
	}
	return time_until(in, earliest);
}

/*
 * Find the windows that deny the request.  Returns false if none does, else
 * the one that denies longest.
 */
static bool
find_denial(const DecisionInput *in, Amount bonus_left, int *binding)
{
	bool		denied = false;
	int64_t		longest = 0;

	for (int i = 0; i < in->nlimits; i++)
	{
		const WindowState *l = &in->limits[i];
		int64_t		retry;

		if (l->unlimited ||
			window_room(l, 0) + (i == in->allowance ? bonus_left : 0) >= in->amount)
			continue;

		retry = window_retry_after(in, i);
		if (!denied || retry > longest ||
			(retry == longest && window_longer(in, i, *binding)))
		{
			*binding = i;
			longest = retry;
		}
		denied = true;
	}
	return denied;
}

/*
 * Decide one request: all or nothing, the allowance first, then bonuses in
 * order.  Fills in->bonuses[].take as well as *out.
 */
void
decide(const DecisionInput *in, Decision *out)
{
	Amount		bonus_left = 0;
	Amount		rest;
	int			denying = -1;

	memset(out, 0, sizeof(*out));
	for (int b = 0; b < in->nbonuses; b++)
	{
		in->bonuses[b].take = 0;
		bonus_left += in->bonuses[b].left;
	}

	report(in, 0, 0, bonus_left, &out->before);
	out->after = out->before;
	out->retry_after = DECISION_NEVER;

	if (in->nlimits == 0)
	{
		out->reason = REASON_NOT_IN_PLAN;
		return;
	}

	if (find_denial(in, bonus_left, &denying))
	{
		const WindowState *l = &in->limits[denying];

		out->retry_after = retry_after(in);
		out->before.binding = denying;
		out->before.unlimited = false;
		out->before.remaining = window_room(l, 0) +
			(denying == in->allowance ? bonus_left : 0);
		out->before.used = l->used;
		out->after = out->before;
		out->reason = l->limit == 0 && out->before.remaining == 0 ?
			REASON_NOT_IN_PLAN : REASON_QUOTA_EXCEEDED;
		return;
	}

	out->allowed = true;
	out->from_allowance = in->limits[in->allowance].unlimited ? in->amount :
		amount_min(in->amount, window_room(&in->limits[in->allowance], 0));
	out->from_bonus = in->amount - out->from_allowance;
	out->reason = out->from_bonus > 0 ? REASON_BONUS : REASON_OK;

	rest = out->from_bonus;
	for (int b = 0; b < in->nbonuses && rest > 0; b++)
	{
		in->bonuses[b].take = amount_min(rest, in->bonuses[b].left);
		rest -= in->bonuses[b].take;
	}

	report(in, out->from_allowance, in->amount,
		   bonus_left - out->from_bonus, &out->after);
}

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
		case REASON_OVERAGE:
			return "overage";
		case REASON_SHADOW:
			return "shadow";
		case REASON_QUOTA_EXCEEDED:
			return "quota_exceeded";
		case REASON_SPEND_CAP:
			return "spend_cap";
		case REASON_NOT_IN_PLAN:
			return "not_in_plan";
		case REASON_IDEMPOTENCY_CONFLICT:
			return "idempotency_conflict";
		case REASON_RESERVATION_EXPIRED:
			return "reservation_expired";
		case REASON_OTHER_DENIED:
			return "other_denied";
	}
	return "unknown";
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
 * What a finite window has left by itself at "at", now or later, if nothing
 * else happens; negative if more is used than the limit allows.  By the end of
 * its period the window starts again, and what is held stays behind.
 */
static Amount
window_left_at(const DecisionInput *in, const WindowState *l, int64_t at)
{
	if (l->rate)
		return rate_capacity(l->rate) - rate_used_at(l->rate, at) - l->held;
	return at == in->now || at < l->resets_at ? l->limit - l->used - l->held : l->limit;
}

/* Bonus units that can be used at "at", if nothing else happens */
static Amount
bonus_left_at(const DecisionInput *in, int64_t at)
{
	Amount		left = 0;

	for (int b = 0; b < in->nbonuses; b++)
		if (in->bonuses[b].expires_at > at)
			left += in->bonuses[b].left;
	return left;
}

/* Units of a window, bonuses included where they extend it; at least 0 */
static Amount
window_room_at(const DecisionInput *in, int i, int64_t at)
{
	Amount		room = amount_max(window_left_at(in, &in->limits[i], at), 0);

	return i == in->allowance ? room + bonus_left_at(in, at) : room;
}

/*
 * Would a window have room for the request at "at"?  A limit in shadow mode
 * lets it pass all the same; it does not take from bonuses, so what was used
 * beyond the limit counts against them.
 */
static bool
window_has_room_at(const DecisionInput *in, int i, int64_t at)
{
	const WindowState *l = &in->limits[i];

	if (l->unlimited)
		return true;
	if (l->mode == MODE_SHADOW && i == in->allowance)
		return window_left_at(in, l, at) + bonus_left_at(in, at) >= in->amount;
	return window_room_at(in, i, at) >= in->amount;
}

/* Does a window let the request pass at "at"? */
static bool
window_admits_at(const DecisionInput *in, int i, int64_t at)
{
	const WindowState *l = &in->limits[i];
	Amount		overage;
	Money		cost;

	if (l->mode == MODE_SHADOW || window_has_room_at(in, i, at))
		return true;
	if (l->mode == MODE_HARD)
		return false;
	if (i != in->allowance || !l->capped)
		return true;

	overage = in->amount - window_room_at(in, i, at);
	cost = at == in->now || at < l->resets_at ? l->cost : 0;
	return cost + amount_cost(overage, l->price) <= l->spend_cap;
}

/*
 * How much a window is a limit: finite ones that deny or have their price
 * before those that never end, and these before those that let all pass
 */
static int
window_class(const DecisionInput *in, int i)
{
	const WindowState *l = &in->limits[i];

	if (l->unlimited)
		return 1;
	return l->mode == MODE_HARD || (l->mode == MODE_SOFT && i == in->allowance) ? 0 : 2;
}

/* Report one window, given what this request has charged to it */
static void
report_window(const DecisionInput *in, int i, Amount charged, Amount bonus_left,
			  LimitReport *out)
{
	const WindowState *l = &in->limits[i];

	out->binding = i;
	out->unlimited = l->unlimited;
	out->remaining = 0;
	if (!l->unlimited)
	{
		out->remaining = amount_max(window_left_at(in, l, in->now) - charged, 0);
		if (i == in->allowance)
			out->remaining += bonus_left;
	}
	out->used = l->used + charged;
	out->bonus_remaining = bonus_left;
}

/*
 * Report the window with the least room, given what this request has charged
 * to the allowance and to the rate windows and what bonuses are left.
 */
static void
report(const DecisionInput *in, Amount to_allowance, Amount to_rate,
	   Amount bonus_left, LimitReport *out)
{
	memset(out, 0, sizeof(*out));
	out->binding = -1;
	out->bonus_remaining = bonus_left;

	for (int i = 0; i < in->nlimits; i++)
	{
		Amount		charged = i == in->allowance ? to_allowance : to_rate;
		LimitReport this;
		int			class = window_class(in, i);
		bool		tighter;

		report_window(in, i, charged, bonus_left, &this);
		if (out->binding < 0)
			tighter = true;
		else if (class != window_class(in, out->binding))
			tighter = class < window_class(in, out->binding);
		else if (this.remaining != out->remaining)
			tighter = this.remaining < out->remaining;
		else
			tighter = window_longer(in, i, out->binding);
		if (tighter)
			*out = this;
	}
}

/* How long to wait until "at"; NEVER stays never */
static int64_t
time_until(const DecisionInput *in, int64_t at)
{
	if (at == DECISION_NEVER)
		return DECISION_NEVER;
	return at > in->now ? at - in->now : 0;
}

typedef bool (*WindowTest) (const DecisionInput *in, int i, int64_t at);

/*
 * The earliest time from "from" on at which a window passes a test by itself, or
 * DECISION_NEVER.  Its room comes back at the end of its period, or as units
 * leave it; what bonuses expire meanwhile has to be waited for as well.
 */
static int64_t
window_next(const DecisionInput *in, int i, int64_t from, WindowTest passes)
{
	const WindowState *l = &in->limits[i];

	while (!passes(in, i, from))
	{
		int64_t		at = l->resets_at;

		if (l->rate)
		{
			Amount		amount = in->amount + l->held;

			if (i == in->allowance)
				amount = amount_max(amount - bonus_left_at(in, from), 0);
			at = rate_free_at(l->rate, amount, from);
		}
		if (at <= from || at == DECISION_NEVER)
			return DECISION_NEVER;
		from = at;
	}
	return from;
}

/* When a window that fails a test now would pass it by itself */
static int64_t
window_retry_after(const DecisionInput *in, int i, WindowTest passes)
{
	return time_until(in, window_next(in, i, in->now, passes));
}

/*
 * The earliest time from "from" on at which all windows together admit the
 * request by themselves, or DECISION_NEVER.  No window admits it between a time
 * and its next, so no time is passed over.
 */
int64_t
decision_admitted_at(const DecisionInput *in, int64_t from)
{
	int64_t		at = from;
	bool		moved = true;

	while (moved)
	{
		moved = false;
		for (int i = 0; i < in->nlimits; i++)
		{
			int64_t		next = window_next(in, i, at, window_admits_at);

			if (next == DECISION_NEVER)
				return DECISION_NEVER;
			moved = moved || next > at;
			at = next;
		}
	}
	return at;
}

/*
 * Find the windows that do not pass a test.  Returns false if all do, else the
 * one that fails it longest.
 */
static bool
find_denial(const DecisionInput *in, WindowTest passes, bool shadow_only, int *binding)
{
	bool		denied = false;
	int64_t		longest = 0;

	for (int i = 0; i < in->nlimits; i++)
	{
		int64_t		retry;

		if ((shadow_only && in->limits[i].mode != MODE_SHADOW) ||
			passes(in, i, in->now))
			continue;

		retry = window_retry_after(in, i, passes);
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

static void
deny(const DecisionInput *in, int denying, Amount bonus_left, Decision *out)
{
	const WindowState *l = &in->limits[denying];

	out->retry_after = time_until(in, decision_admitted_at(in, in->now));
	report_window(in, denying, 0, bonus_left, &out->before);
	out->after = out->before;
	if (l->mode == MODE_SOFT)
		out->reason = REASON_SPEND_CAP;
	else
		out->reason = l->limit == 0 && out->before.remaining == 0 ?
			REASON_NOT_IN_PLAN : REASON_QUOTA_EXCEEDED;
}

/* Which part of a granted amount comes from where */
static void
grant(const DecisionInput *in, Amount bonus_left, Decision *out)
{
	const WindowState *l = &in->limits[in->allowance];
	Parts	   *parts = &out->parts;
	Amount		rest;

	parts->allowance = l->unlimited || l->mode == MODE_SHADOW ? in->amount :
		amount_min(in->amount, amount_max(window_left_at(in, l, in->now), 0));
	rest = in->amount - parts->allowance;
	parts->bonus = amount_min(rest, bonus_left);
	parts->overage = rest - parts->bonus;
	parts->cost = amount_cost(parts->overage, l->price);

	rest = parts->bonus;
	for (int b = 0; b < in->nbonuses && rest > 0; b++)
	{
		in->bonuses[b].take = amount_min(rest, in->bonuses[b].left);
		rest -= in->bonuses[b].take;
	}
}

/*
 * Decide one request: all or nothing, the allowance first, then bonuses in
 * order, then overage where the limit is soft.  Fills in->bonuses[].take as
 * well as *out.
 */
void
decide(const DecisionInput *in, Decision *out)
{
	Amount		bonus_left = bonus_left_at(in, in->now);
	int			denying = -1;

	memset(out, 0, sizeof(*out));
	for (int b = 0; b < in->nbonuses; b++)
		in->bonuses[b].take = in->bonuses[b].hold = 0;

	report(in, 0, 0, bonus_left, &out->before);
	out->after = out->before;
	out->retry_after = DECISION_NEVER;

	if (in->nlimits == 0)
	{
		out->reason = REASON_NOT_IN_PLAN;
		return;
	}
	if (find_denial(in, window_admits_at, false, &denying))
	{
		deny(in, denying, bonus_left, out);
		return;
	}

	out->allowed = true;
	grant(in, bonus_left, out);
	bonus_left -= out->parts.bonus;
	if (in->amount > 0 && find_denial(in, window_has_room_at, true, &denying))
	{
		out->reason = REASON_SHADOW;
		report_window(in, denying, 0, bonus_left + out->parts.bonus, &out->before);
		report_window(in, denying,
					  denying == in->allowance ? out->parts.allowance : in->amount,
					  bonus_left, &out->after);
		return;
	}
	out->reason = out->parts.overage > 0 ? REASON_OVERAGE :
		out->parts.bonus > 0 ? REASON_BONUS : REASON_OK;
	report(in, out->parts.allowance, in->amount, bonus_left, &out->after);
}

/* Report the present state; in->amount does not matter */
void
decision_report(const DecisionInput *in, LimitReport *out)
{
	report(in, 0, 0, bonus_left_at(in, in->now), out);
}

/*
 * The most that could be granted now; returns false if there is no bound.
 * in->amount does not matter.
 */
bool
decision_grantable(const DecisionInput *in, Amount *most)
{
	bool		bounded = false;

	for (int i = 0; i < in->nlimits; i++)
	{
		const WindowState *l = &in->limits[i];
		Amount		room;

		if (l->unlimited || window_class(in, i) != 0)
			continue;
		room = window_room_at(in, i, in->now);
		if (l->mode == MODE_SOFT)
		{
			if (!l->capped || (l->price == 0 && l->cost <= l->spend_cap))
				continue;
			if (l->price > 0)
				room += amount_max(l->spend_cap - l->cost, 0) / l->price;
		}
		*most = bounded ? amount_min(*most, room) : room;
		bounded = true;
	}
	return bounded;
}

/* cost x kept / overage, which is exact where all of it had one price */
static Money
cost_of(Money cost, Amount overage, Amount kept)
{
	Money		rest;

	if (kept == overage || overage == 0)
		return cost;
	if (__builtin_mul_overflow(cost % overage, kept, &rest))
		rest = 0;
	return cost / overage * kept + rest / overage;
}

/*
 * Keep the first units of a whole, in the order in which they were taken:
 * allowance, bonuses line by line, overage.  The rest of it is what goes back,
 * last source first.  kept_lines may be lines, and lines may add up to more
 * than whole->bonus, which then counts.
 */
void
parts_keep(const Parts *whole, const Amount *lines, int nlines,
		   Amount keep, Parts *kept, Amount *kept_lines)
{
	Amount		rest;

	memset(kept, 0, sizeof(*kept));
	kept->allowance = amount_min(keep, whole->allowance);
	keep -= kept->allowance;
	kept->bonus = amount_min(keep, whole->bonus);
	kept->overage = amount_min(keep - kept->bonus, whole->overage);
	kept->cost = kept->overage > 0 ?
		cost_of(whole->cost, whole->overage, kept->overage) : 0;

	rest = kept->bonus;
	for (int i = 0; i < nlines; i++)
	{
		Amount		line = amount_min(rest, lines[i]);

		kept_lines[i] = line;
		rest -= line;
	}
}

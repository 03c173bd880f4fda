/*-------------------------------------------------------------------------
 *
 * rate.c
 *	  Windows that do not start again at once; see rate.h.
 *
 * Pure: no I/O, no allocation, no clock, no PostgreSQL header.
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "rate.h"

/* Arithmetic ---------------------------------------------------------------- */

/* larger than any amount or time here, and can be doubled */
#define HUGE_AMOUNT		((Amount) 1 << 124)

/*
 * (a * b + c) / d, rounded down, and what remains of it.  None is negative, a
 * and c are below HUGE_AMOUNT, 0 < d < HUGE_AMOUNT.  The product need not fit
 * in 128 bits; a result that is too large comes out as HUGE_AMOUNT.
 */
static Amount
mul_div(Amount a, Amount b, Amount c, Amount d, Amount *rest)
{
	Amount		product;
	Amount		quotient = 0;
	Amount		r = 0;

	if (!__builtin_mul_overflow(a, b, &product) &&
		!__builtin_add_overflow(product, c, &product))
	{
		*rest = product % d;
		return amount_min(product / d, HUGE_AMOUNT);
	}

	/* as by hand, bit by bit of b, keeping what remains below d */
	for (int bit = 126; bit >= 0; bit--)
	{
		quotient *= 2;
		r *= 2;
		if (b >> bit & 1)
		{
			quotient += a / d;
			r += a % d;
		}
		/* r was below d before it was doubled, so it is below 3 d now */
		quotient = amount_min(quotient + r / d, HUGE_AMOUNT);
		r %= d;
	}
	r += c % d;
	*rest = r % d;
	return amount_min(quotient + c / d + r / d, HUGE_AMOUNT);
}

/* A time that may be too far away to be told */
static int64_t
time_or_never(Amount at)
{
	return at < RATE_TIME_BOUND ? (int64_t) at : RATE_NEVER;
}

/* gcra ---------------------------------------------------------------------- */

/* Take "whole + part / length" out of the bucket, which is empty at the least */
static void
bucket_lower(RateState *s, Amount whole, int64_t part)
{
	if (whole > s->level || (whole == s->level && part >= s->part))
	{
		s->level = 0;
		s->part = 0;
		return;
	}
	s->level -= whole;
	s->part -= part;
	if (s->part < 0)
	{
		s->part += s->length;
		s->level--;
	}
}

static void
bucket_raise(RateState *s, Amount amount)
{
	s->level += amount;
	if (s->level >= RATE_MOST)
	{
		s->level = RATE_MOST;
		s->part = 0;
	}
}

static void
bucket_drain(RateState *s, int64_t now)
{
	Amount		part;
	Amount		whole = mul_div((Amount) now - s->at, s->limit, 0, s->length, &part);

	bucket_lower(s, whole, (int64_t) part);
	s->at = now;
}

/* The bucket as it was at its time, from now on with another rate */
static void
bucket_change_rate(RateState *s, Amount limit, int64_t length)
{
	Amount		rest;
	Amount		part = mul_div(s->part, length, 0, s->length, &rest);

	if (rest > 0)
		part++;
	s->part = (int64_t) part;
	if (s->part == length)
	{
		s->part = 0;
		bucket_raise(s, 1);
	}
	s->limit = limit;
	s->length = length;
	s->since = s->at;
}

/* Time from s->at until the bucket holds no more than "whole" */
static Amount
bucket_time_to(const RateState *s, Amount whole)
{
	Amount		rest;
	Amount		time;

	if (s->level < whole || (s->level == whole && s->part == 0))
		return 0;
	if (s->limit == 0)
		return HUGE_AMOUNT;
	time = mul_div(s->level - whole, s->length, s->part, s->limit, &rest);
	return rest > 0 ? time + 1 : time;
}

/* In whole millionths, rounded up */
static Amount
bucket_used(const RateState *s)
{
	return s->part > 0 ? s->level + 1 : s->level;
}

/* sliding ------------------------------------------------------------------- */

/*
 * Slots of one length are numbered from the epoch: slot k has the instants from
 * k * slot_length() up to but not including (k + 1) * slot_length().
 */
static int64_t
slot_length(int64_t length)
{
	return (length + RATE_DIVISIONS - 1) / RATE_DIVISIONS;
}

static Amount
slot_of(int64_t at, int64_t length)
{
	int64_t		each = slot_length(length);

	return at / each - (at % each < 0 ? 1 : 0);
}

/* The last instant of a slot */
static Amount
slot_end(Amount slot, int64_t length)
{
	return (slot + 1) * slot_length(length) - 1;
}

/*
 * When slots[i] no longer counts.  A unit of the time u is in the windows
 * (t - length, t] with t < u + length, and the last u of the slot is its end.
 *
 * There is a place for every slot that counts: RATE_DIVISIONS slots are not
 * shorter than the window, so one that lies further back ends before it begins.
 */
static Amount
slot_free_at(const RateState *s, int i)
{
	return slot_end(slot_of(s->at, s->length) - i, s->length) + s->length;
}

static void
slots_advance(RateState *s, int64_t now)
{
	Amount		shift = slot_of(now, s->length) - slot_of(s->at, s->length);

	if (shift >= RATE_SLOTS)
		memset(s->slots, 0, sizeof(s->slots));
	else if (shift > 0)
	{
		int			n = (int) shift;

		memmove(s->slots + n, s->slots, (RATE_SLOTS - n) * sizeof(Amount));
		memset(s->slots, 0, n * sizeof(Amount));
	}
	s->at = now;

	for (int i = RATE_SLOTS - 1; i >= 0 && slot_free_at(s, i) <= now; i--)
		s->slots[i] = 0;
}

static Amount
slots_used(const RateState *s)
{
	Amount		used = 0;

	for (int i = 0; i < RATE_SLOTS; i++)
		used += s->slots[i];
	return used;
}

/*
 * Count by slots of another length.  All units of a slot get the latest time
 * that one of them can have, so none leaves the window too early.
 */
static void
slots_change_length(RateState *s, int64_t length)
{
	Amount		slots[RATE_SLOTS];
	Amount		newest = slot_of(s->at, s->length);

	memcpy(slots, s->slots, sizeof(slots));
	memset(s->slots, 0, sizeof(s->slots));
	for (int i = 0; i < RATE_SLOTS; i++)
	{
		int64_t		latest = (int64_t) amount_min(slot_end(newest - i, s->length), s->at);
		Amount		place;

		if (slots[i] == 0)
			continue;
		place = slot_of(s->at, length) - slot_of(latest, length);
		if (place < RATE_SLOTS)
			s->slots[(int) place] = amount_min(s->slots[(int) place] + slots[i], RATE_MOST);
	}
	s->length = length;
}

/* Time ---------------------------------------------------------------------- */

/* Make the state one of this kind: all that is used was used just then */
static void
change_kind(const RateWindow *w, RateState *s)
{
	Amount		used = s->kind == RATE_GCRA ? bucket_used(s) : slots_used(s);
	int64_t		at = s->at;

	memset(s, 0, sizeof(*s));
	s->kind = w->kind;
	s->at = at;
	s->since = at;
	s->length = w->length;
	s->limit = w->kind == RATE_GCRA ? w->limit : 0;
	if (w->kind == RATE_GCRA)
		s->level = amount_min(used, RATE_MOST);
	else
		s->slots[0] = amount_min(used, RATE_MOST);
}

/* Bring a state to the present form of its window, and to a time */
static void
advance(const RateWindow *w, RateState *s, int64_t now)
{
	if (s->kind == RATE_NONE)
		s->at = now;
	if (s->kind != w->kind)
		change_kind(w, s);
	else if (s->kind == RATE_GCRA && (s->limit != w->limit || s->length != w->length))
		bucket_change_rate(s, w->limit, w->length);
	else if (s->kind == RATE_SLIDING && s->length != w->length)
		slots_change_length(s, w->length);

	if (now < s->at)
		now = s->at;
	if (s->kind == RATE_GCRA)
		bucket_drain(s, now);
	else
		slots_advance(s, now);
}

/* Answers ------------------------------------------------------------------- */

/* The most that can ever fit */
Amount
rate_capacity(const RateWindow *w)
{
	return w->kind == RATE_GCRA && w->limit > 0 ? w->burst : w->limit;
}

/* Units that count as used at "now"; may be more than the capacity */
Amount
rate_used_at(const RateWindow *w, int64_t now)
{
	RateState	s = *w->state;

	advance(w, &s, now);
	return s.kind == RATE_GCRA ? bucket_used(&s) : slots_used(&s);
}

/* The most that fits at "now", if nothing else happens; at least 0 */
Amount
rate_room_at(const RateWindow *w, int64_t now)
{
	return amount_max(rate_capacity(w) - rate_used_at(w, now), 0);
}

/*
 * The earliest time, from "now" on, at which the amount fits if nothing else
 * happens; RATE_NEVER if it is more than ever fits.
 */
int64_t
rate_free_at(const RateWindow *w, Amount amount, int64_t now)
{
	RateState	s = *w->state;
	Amount		allowed = rate_capacity(w) - amount;	/* used by others */
	Amount		used;
	int			oldest = RATE_SLOTS - 1;

	if (allowed < 0)
		return RATE_NEVER;
	advance(w, &s, now);

	if (s.kind == RATE_GCRA)
	{
		Amount		wait = bucket_time_to(&s, allowed);

		return wait == 0 ? now : time_or_never(s.at + wait);
	}

	used = slots_used(&s);
	if (used <= allowed)
		return now;
	/* until enough of the oldest slots have left */
	for (;; oldest--)
	{
		used -= s.slots[oldest];
		if (used <= allowed)
			return time_or_never(slot_free_at(&s, oldest));
	}
}

/* The earliest time, from "now" on, at which nothing counts as used */
int64_t
rate_empty_at(const RateWindow *w, int64_t now)
{
	RateState	s = *w->state;

	advance(w, &s, now);
	if (s.kind == RATE_GCRA)
	{
		Amount		wait = bucket_time_to(&s, 0);

		return wait == 0 ? now : time_or_never(s.at + wait);
	}
	for (int i = 0; i < RATE_SLOTS; i++)
		if (s.slots[i] > 0)
			return time_or_never(slot_free_at(&s, i));
	return now;
}

/* Changes ------------------------------------------------------------------- */

/*
 * Count units as used, whether or not they fit.  "when" is the time at which
 * they were admitted, "now" for a new request; an earlier one only if they
 * were held since then, so that others could not have them.  A bucket takes
 * them in as of now all the same: it does not know whether it would have had
 * the time to drain them.
 */
void
rate_add(const RateWindow *w, Amount amount, int64_t when, int64_t now)
{
	RateState  *s = w->state;

	advance(w, s, now);
	if (s->kind == RATE_GCRA)
		bucket_raise(s, amount);
	else
	{
		Amount		place = slot_of(s->at, s->length) -
			slot_of(when < s->at ? when : s->at, s->length);

		/* what is older counts in no window any more */
		if (place < RATE_SLOTS)
			s->slots[(int) place] = amount_min(s->slots[(int) place] + amount, RATE_MOST);
	}
}

/*
 * Give back some of the units "whole" that were added as of "when", not counting
 * what was given back of them before.  Only what still counts comes back, and
 * nothing if they are from before the state, or from before a change of
 * what it counts by.
 *
 * A bucket cannot tell whose units it has drained.  Without those that are given
 * back it might have been empty for some time, but never where it held
 * more than them; and since "when" it has held what is left of the whole at the
 * least.  To give back more than that could let others have more than the burst
 * at once.
 */
void
rate_take_back(const RateWindow *w, Amount amount, Amount whole, int64_t when, int64_t now)
{
	RateState  *s = w->state;

	advance(w, s, now);
	if (when > s->at)
		when = s->at;
	if (when < s->since)
		return;

	if (s->kind == RATE_GCRA)
	{
		RateState	left = *s;

		left.level = amount_max(whole, amount);
		left.part = 0;
		left.at = when;
		bucket_drain(&left, s->at);
		if (left.level < amount)
			bucket_lower(s, left.level, left.part);
		else
			bucket_lower(s, amount, 0);
	}
	else
	{
		Amount		place = slot_of(s->at, s->length) - slot_of(when, s->length);

		if (place < RATE_SLOTS)
			s->slots[(int) place] = amount_max(s->slots[(int) place] - amount, 0);
	}
}

/* Storage ------------------------------------------------------------------- */

/* Write a state as numbers, at most RATE_NUMBERS; returns how many there are */
int
rate_store(const RateState *state, Amount *numbers)
{
	int			n = 3;

	if (state->kind == RATE_NONE)
		return 0;
	numbers[0] = state->kind * AMOUNT_UNIT;
	numbers[1] = state->since;
	numbers[2] = state->length;
	if (state->kind == RATE_GCRA)
	{
		numbers[n++] = state->limit;
		numbers[n++] = state->level;
		numbers[n++] = state->part;
	}
	else
		for (int i = 0; i < RATE_SLOTS; i++)
			numbers[n++] = state->slots[i];

	while (numbers[n - 1] == 0)
		n--;
	return n;
}

/*
 * The state that rate_store() wrote, as of "at".  Returns false if it did not
 * write this; the state is empty then.
 */
bool
rate_load(const Amount *numbers, int n, int64_t at, RateState *state)
{
	Amount		all[RATE_NUMBERS] = {0};
	bool		sound;

	memset(state, 0, sizeof(*state));
	if (n == 0)
		return true;
	if (n < 3 || n > RATE_NUMBERS)
		return false;
	memcpy(all, numbers, n * sizeof(Amount));

	sound = all[1] >= INT64_MIN && all[1] <= at &&
		all[2] > 0 && all[2] <= (Amount) 1 << 60;
	for (int i = 3; i < n; i++)
		sound = sound && all[i] >= 0 && all[i] <= RATE_MOST;
	if (all[0] == RATE_GCRA * AMOUNT_UNIT)
		sound = sound && n <= 6 && all[3] < AMOUNT_BOUND && all[5] < all[2];
	else
		sound = sound && all[0] == RATE_SLIDING * AMOUNT_UNIT;
	if (!sound)
		return false;

	state->at = at;
	state->since = (int64_t) all[1];
	state->length = (int64_t) all[2];
	if (all[0] == RATE_GCRA * AMOUNT_UNIT)
	{
		state->kind = RATE_GCRA;
		state->limit = all[3];
		state->level = all[4];
		state->part = (int64_t) all[5];
	}
	else
	{
		state->kind = RATE_SLIDING;
		memcpy(state->slots, all + 3, sizeof(state->slots));
	}
	return true;
}

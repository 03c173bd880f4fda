/*-------------------------------------------------------------------------
 *
 * rate_test.c
 *	  The windows gcra and sliding against brute force, without PostgreSQL.
 *
 * The oracles keep a list of what was admitted when, and the exact contents of a
 * bucket as a whole number of millionths times microseconds, as large as it
 * gets; they add and compare, and never divide.
 *
 *	promise		random requests: what is admitted keeps the promise in every span
 *				of time, what is denied would have broken it
 *	exact		every answer is the exact one, whatever the size of numbers
 *	refund		what comes back never lets others have more than promised
 *	change		limits, bursts, lengths and kinds that change
 *	storage		what is stored comes back, what is not sound does not
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rate.h"

#define MAX_COMPLAINTS	20
#define MAX_ENTRIES		400
#define LENGTH(array)	((int) (sizeof(array) / sizeof((array)[0])))

static long passed = 0;
static long failed = 0;

static const char *
show(Amount amount)
{
	static char bufs[8][64];
	static int	next = 0;
	char	   *buf = bufs[next++ % LENGTH(bufs)];

	if (amount > INT64_MAX || amount < INT64_MIN)
		snprintf(buf, sizeof(bufs[0]), "about %.20Lg", (long double) amount);
	else
		snprintf(buf, sizeof(bufs[0]), "%lld", (long long) amount);
	return buf;
}

static void
check(bool ok, const char *what, const RateWindow *w, Amount amount, Amount now)
{
	if (ok)
	{
		passed++;
		return;
	}
	if (++failed > MAX_COMPLAINTS)
		return;
	printf("FAILED: %s\n", what);
	if (w == NULL)
		return;
	printf("  %s limit %s burst %s length %s, amount %s, now %s\n",
		   w->kind == RATE_GCRA ? "gcra" : "sliding", show(w->limit), show(w->burst),
		   show(w->length), show(amount), show(now));
	printf("  state: kind %d at %s since %s length %s level %s + %s\n", (int) w->state->kind,
		   show(w->state->at), show(w->state->since), show(w->state->length),
		   show(w->state->level), show(w->state->part));
	for (int i = 0; i < RATE_SLOTS; i++)
		if (w->state->slots[i] != 0)
			printf("  slot %d: %s\n", i, show(w->state->slots[i]));
}

/* Chance ---------------------------------------------------------------------- */

static uint64_t seed = 20000101;

static uint64_t
random_bits(void)
{
	/* splitmix64, so that every run and machine tests the same */
	uint64_t	z = (seed += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

static int64_t
random_below(int64_t bound)
{
	return (int64_t) (random_bits() % (uint64_t) bound);
}

/* Of any size: the number of bits is random, too */
static Amount
random_amount(Amount bound)
{
	Amount		a = ((Amount) (random_bits() >> 1) << 64) | random_bits();
	int			bits = (int) (random_bits() % 90);

	return (a & (((Amount) 1 << bits) - 1)) % bound;
}

/* Whole numbers of 256 bits ------------------------------------------------------ */

#define LIMBS	8

typedef struct Big
{
	uint32_t	limb[LIMBS];	/* lowest first */
} Big;

static Big
big_product(Amount a, Amount b)
{
	Big			r = {{0}};

	for (int i = 0; i < 4; i++)
	{
		uint64_t	carry = 0;

		for (int j = 0; i + j < LIMBS; j++)
		{
			uint64_t	digit = j < 4 ? (uint32_t) (b >> (32 * j)) : 0;

			carry += (uint64_t) (uint32_t) (a >> (32 * i)) * digit + r.limb[i + j];
			r.limb[i + j] = (uint32_t) carry;
			carry >>= 32;
		}
	}
	return r;
}

static int
big_compare(Big a, Big b)
{
	for (int i = LIMBS - 1; i >= 0; i--)
		if (a.limb[i] != b.limb[i])
			return a.limb[i] < b.limb[i] ? -1 : 1;
	return 0;
}

static Big
big_sum(Big a, Big b)
{
	uint64_t	carry = 0;

	for (int i = 0; i < LIMBS; i++)
	{
		carry += (uint64_t) a.limb[i] + b.limb[i];
		a.limb[i] = (uint32_t) carry;
		carry >>= 32;
	}
	return a;
}

/* 0 if b is larger */
static Big
big_less(Big a, Big b)
{
	int64_t		borrow = 0;

	if (big_compare(a, b) <= 0)
		return (Big) {{0}};
	for (int i = 0; i < LIMBS; i++)
	{
		borrow += (int64_t) a.limb[i] - b.limb[i];
		a.limb[i] = (uint32_t) borrow;
		borrow >>= 32;
	}
	return a;
}

/* What was admitted ---------------------------------------------------------------- */

typedef struct Entry
{
	int64_t		at;
	Amount		amount;			/* what was not taken back of it */
	int64_t		known;			/* the shortest length that has counted it */
} Entry;

typedef struct Record
{
	Entry		entries[MAX_ENTRIES];
	int			n;
} Record;

static void
record(Record *r, int64_t at, Amount amount)
{
	r->entries[r->n++] = (Entry) {at, amount, INT64_MAX};
}

/* Units in (from, to] */
static Amount
units_between(const Record *r, Amount from, int64_t to)
{
	Amount		sum = 0;

	for (int i = 0; i < r->n; i++)
		if (r->entries[i].at > from && r->entries[i].at <= to)
			sum += r->entries[i].amount;
	return sum;
}

/* What a bucket of this rate promises for every span that ends now, with more units at its end */
static bool
gcra_promise(const Record *r, const RateWindow *w, Amount more, int64_t now)
{
	for (int i = r->n; i >= 0; i--)
	{
		int64_t		start = i < r->n ? r->entries[i].at : now;
		Big			most = big_sum(big_product(w->burst, w->length),
								   big_product(w->limit, (Amount) now - start));

		more += i < r->n ? r->entries[i].amount : 0;
		if (big_compare(big_product(more, w->length), most) > 0)
			return false;
	}
	return true;
}

/* Independent of how slots are stored: when a unit is free again */
static Amount
sliding_free_at(int64_t at, int64_t length)
{
	int64_t		slot = length / RATE_DIVISIONS + (length % RATE_DIVISIONS > 0);
	int64_t		offset = at % slot;

	if (offset < 0)
		offset += slot;
	return (Amount) at - offset + slot - 1 + length;
}

static Amount
sliding_used(const Record *r, const RateWindow *w, int64_t now)
{
	Amount		sum = 0;

	for (int i = 0; i < r->n; i++)
		if (sliding_free_at(r->entries[i].at, w->length) > now)
			sum += r->entries[i].amount;
	return sum;
}

/* The last time at which it does not fit yet */
static int64_t
just_before(int64_t free_at)
{
	return (free_at == RATE_NEVER ? RATE_TIME_BOUND : free_at) - 1;
}

/* What must hold in any state ------------------------------------------------------- */

static void
check_storage(const RateWindow *w, int64_t now)
{
	Amount		numbers[RATE_NUMBERS];
	RateState	loaded;
	int			n = rate_store(w->state, numbers);

	check(n >= 0 && n <= RATE_NUMBERS, "fits in its numbers", w, n, now);
	check(n == 0 || numbers[n - 1] != 0, "no zeros at the end", w, n, now);
	memset(&loaded, 0x55, sizeof(loaded));
	check(rate_load(numbers, n, w->state->at, &loaded), "can be loaded", w, n, now);
	check(loaded.kind == w->state->kind && loaded.since == w->state->since &&
		  loaded.length == w->state->length && loaded.limit == w->state->limit &&
		  loaded.level == w->state->level && loaded.part == w->state->part &&
		  memcmp(loaded.slots, w->state->slots, sizeof(loaded.slots)) == 0 &&
		  (n == 0 || loaded.at == w->state->at), "comes back as it was", w, n, now);
}

static void
check_answers(const RateWindow *w, Amount amount, int64_t now)
{
	RateState	before = *w->state;
	Amount		used = rate_used_at(w, now);
	Amount		room = rate_room_at(w, now);
	Amount		capacity = rate_capacity(w);
	int64_t		free_at = rate_free_at(w, amount, now);
	int64_t		empty_at = rate_empty_at(w, now);
	int64_t		later;

	check(used >= 0, "used at least 0", w, amount, now);
	check(room == amount_max(capacity - used, 0), "room is what is not used", w, amount, now);
	check(free_at >= now && empty_at >= now, "not in the past", w, amount, now);
	check((free_at == now) == (room >= amount && capacity - used >= amount),
		  "free now if there is room", w, amount, now);
	if (amount > capacity)
		check(free_at == RATE_NEVER, "never more than the capacity", w, amount, now);
	else if (free_at != RATE_NEVER)
	{
		check(rate_room_at(w, free_at) >= amount, "room when it is free", w, amount, now);
		if (free_at > now)
			check(rate_room_at(w, free_at - 1) < amount ||
				  rate_used_at(w, free_at - 1) > capacity - amount,
				  "no room just before", w, amount, now);
	}
	if (empty_at != RATE_NEVER)
	{
		check(rate_used_at(w, empty_at) == 0, "nothing used when empty", w, amount, now);
		if (empty_at > now)
			check(rate_used_at(w, empty_at - 1) > 0, "something used just before", w, amount, now);
	}
	later = now + random_below(w->length < 1000 ? 2 * w->length : w->length);
	check(rate_used_at(w, later) <= used, "room only grows", w, amount, now);

	/* the clock may be behind the state */
	if (w->state->kind != RATE_NONE)
	{
		int64_t		early = w->state->at - random_below(1000);

		check(rate_used_at(w, early) == rate_used_at(w, w->state->at),
			  "before its time it is as at its time", w, amount, early);
	}
	check(memcmp(&before, w->state, sizeof(before)) == 0, "asking changes nothing", w, amount, now);

	/* writing the state down in between makes no difference */
	{
		RateState	copy = before;
		RateWindow	moved = *w;
		Amount		used_later = rate_used_at(w, later);

		moved.state = &copy;
		rate_take_back(&moved, 0, 0, now, now);
		check(copy.at >= now && (before.kind == RATE_NONE || copy.at >= before.at),
			  "time never runs backwards", w, amount, now);
		check(rate_used_at(&moved, now) == used && rate_used_at(&moved, later) == used_later &&
			  rate_free_at(&moved, amount, now) == free_at && rate_empty_at(&moved, now) == empty_at,
			  "written down in between", w, amount, now);
	}
	check_storage(w, now);
}

/* Promises, and denials for a reason -------------------------------------------------- */

static RateWindow
random_small_window(RateKind kind, RateState *state)
{
	RateWindow	w = {.kind = kind, .state = state};

	memset(state, 0, sizeof(*state));
	w.limit = random_below(12);
	w.burst = kind == RATE_GCRA ? random_below(8) : 0;
	w.length = 1 + random_below(random_below(4) ? 200 : 5);
	if (random_below(5) == 0)
		w.length = RATE_DIVISIONS * (1 + random_below(4)) + random_below(3) - 1;
	return w;
}

static void
promise_gcra(void)
{
	for (int run = 0; run < 1500; run++)
	{
		RateState	state;
		RateWindow	w = random_small_window(RATE_GCRA, &state);
		Record		r = {.n = 0};
		int64_t		now = random_below(100) - 50;

		for (int step = 0; step < 60; step++)
		{
			Amount		amount = 1 + random_below(4);
			bool		fits;

			now += random_below(random_below(3) ? 1 + w.length / 3 : 3);
			check_answers(&w, amount, now);
			fits = rate_free_at(&w, amount, now) == now;
			check(fits == (w.limit > 0 && gcra_promise(&r, &w, amount, now)),
				  "gcra admits all that the promise allows, and no more", &w, amount, now);
			if (fits)
			{
				rate_add(&w, amount, now, now);
				record(&r, now, amount);
			}
		}
	}
}

static void
promise_sliding(void)
{
	for (int run = 0; run < 1500; run++)
	{
		RateState	state;
		RateWindow	w = random_small_window(RATE_SLIDING, &state);
		Record		r = {.n = 0};
		int64_t		now = random_below(1000) - 500;
		int64_t		slot = (w.length + RATE_DIVISIONS - 1) / RATE_DIVISIONS;

		for (int step = 0; step < 100; step++)
		{
			Amount		amount = 1 + random_below(4);
			Amount		last;

			now += random_below(random_below(3) ? 1 + w.length / 3 : 3);
			if (random_below(40) == 0)
				now += w.length * random_below(3);
			check_answers(&w, amount, now);
			check(rate_used_at(&w, now) == sliding_used(&r, &w, now),
				  "each unit counts until its slot has left", &w, amount, now);
			last = r.n > 0 ? sliding_free_at(r.entries[r.n - 1].at, w.length) : now;
			check(rate_empty_at(&w, now) == amount_max(last, now), "empty with the last unit", &w, amount, now);
			if (rate_free_at(&w, amount, now) == now)
			{
				rate_add(&w, amount, now, now);
				record(&r, now, amount);
			}
			else
				check(units_between(&r, (Amount) now - w.length - slot + 1, now) + amount > w.limit,
					  "not denied for more than a slot longer", &w, amount, now);
		}
		for (int i = 0; i < r.n; i++)
		{
			/* the fullest windows end, or begin, with an entry */
			int64_t		at = r.entries[i].at;

			check(units_between(&r, (Amount) at - w.length, at) <= w.limit, "no window too full", &w, 0, at);
			check(units_between(&r, at - 1, at + w.length - 1) <= w.limit, "no window too full", &w, 0, at);
		}
	}
}

/* Exact, whatever the size ---------------------------------------------------------- */

static int64_t
random_length(void)
{
	int64_t		length = (int64_t) (random_bits() >> (4 + random_below(60)));

	return length > 0 ? length : 1;
}

static void
exact_gcra(void)
{
	for (int run = 0; run < 10000; run++)
	{
		RateState	state = {0};
		RateWindow	w = {.kind = RATE_GCRA, .state = &state};
		int64_t		now = (int64_t) random_bits() >> (2 + random_below(50));
		Big			level = {{0}};	/* millionths times length */

		w.limit = random_amount(AMOUNT_BOUND);
		w.burst = random_below(2) ? w.limit : random_amount(AMOUNT_BOUND);
		w.length = random_length();
		for (int step = 0; step < 8; step++)
		{
			Amount		amount = 1 + random_amount(AMOUNT_BOUND - 1);
			int64_t		wait = (int64_t) (random_bits() >> (8 + random_below(56)));
			int64_t		free_at;
			Amount		used;

			/* often as long as it takes */
			free_at = rate_empty_at(&w, now);
			if (random_below(3) == 0 && free_at < RATE_NEVER / 2)
				wait = amount_max((Amount) free_at - now - random_below(2), 0);
			if (now > RATE_NEVER / 2)
				wait = 0;
			now += wait;
			level = big_less(level, big_product(w.limit, wait));
			if (random_below(3) == 0)
				amount = amount_max(rate_room_at(&w, now) + random_below(3) - 1, 1);

			used = rate_used_at(&w, now);
			check(big_compare(big_product(used, w.length), level) >= 0 &&
				  (used == 0 || big_compare(big_product(used - 1, w.length), level) < 0),
				  "used rounded up", &w, amount, now);
			check(state.kind == RATE_NONE || (state.part >= 0 && state.part < w.length),
				  "a proper fraction", &w, amount, now);
			free_at = rate_free_at(&w, amount, now);
			if (amount > rate_capacity(&w))
				check(free_at == RATE_NEVER, "never", &w, amount, now);
			else
			{
				Big			allowed = big_product(w.burst - amount, w.length);

				/* up to the end of time */
				check(free_at == RATE_NEVER ||
					  big_compare(big_less(level, big_product(w.limit, (Amount) free_at - now)), allowed) <= 0,
					  "fits then", &w, amount, now);
				check(free_at == now ||
					  big_compare(big_less(level, big_product(w.limit, (Amount) just_before(free_at) - now)), allowed) > 0,
					  "and no sooner", &w, amount, now);
			}
			check_storage(&w, now);

			/* soft limits add what does not fit, too */
			rate_add(&w, amount, now, now);
			level = big_sum(level, big_product(amount, w.length));
			check(rate_used_at(&w, now) == used + amount, "what is added is used", &w, amount, now);
		}
	}
}

/* What does not fit in 128 bits together, with remainders that add up to a microsecond */
static void
exact_overflow(void)
{
	for (int run = 0; run < 20000; run++)
	{
		RateState	state = {.kind = RATE_GCRA};
		RateWindow	w = {.kind = RATE_GCRA, .state = &state};
		Amount		allowed;
		Big			level;
		int64_t		free_at;

		w.length = state.length = ((int64_t) 1 << 60) - random_below((int64_t) 1 << 40);
		w.limit = state.limit = ((Amount) 1 << 66) + (Amount) random_bits();
		w.burst = AMOUNT_BOUND - 1;
		state.level = ((Amount) 1 << 68) + random_amount((Amount) 1 << 66);
		state.part = random_below(w.length);
		allowed = random_amount(AMOUNT_UNIT);
		level = big_sum(big_product(state.level, w.length), big_product(state.part, 1));
		free_at = rate_free_at(&w, w.burst - allowed, 0);
		if (free_at == RATE_NEVER)
			continue;
		check(big_compare(big_less(level, big_product(w.limit, free_at)),
						  big_product(allowed, w.length)) <= 0, "fits then", &w, allowed, 0);
		check(big_compare(big_less(level, big_product(w.limit, free_at - 1)),
						  big_product(allowed, w.length)) > 0, "and no sooner", &w, allowed, 0);
	}
}

static void
exact_sliding(void)
{
	for (int run = 0; run < 3000; run++)
	{
		RateState	state = {0};
		RateWindow	w = {.kind = RATE_SLIDING, .state = &state};
		Record		r = {.n = 0};
		int64_t		now = (int64_t) random_bits() >> (2 + random_below(50));

		w.limit = random_amount(AMOUNT_BOUND);
		w.length = random_length();
		for (int step = 0; step < 12; step++)
		{
			Amount		amount = 1 + random_amount(AMOUNT_BOUND - 1);
			int64_t		free_at;

			if (now < RATE_NEVER / 2)
				now += random_below(w.length) >> random_below(8);
			check(rate_used_at(&w, now) == sliding_used(&r, &w, now), "used", &w, amount, now);
			if (random_below(2))
				amount = amount_max(w.limit - random_amount(w.limit + 1), 1);
			free_at = rate_free_at(&w, amount, now);
			if (amount > w.limit)
				check(free_at == RATE_NEVER, "never", &w, amount, now);
			else
			{
				if (free_at != RATE_NEVER)
					check(sliding_used(&r, &w, free_at) + amount <= w.limit, "fits then", &w, amount, now);
				check(free_at == now || sliding_used(&r, &w, just_before(free_at)) + amount > w.limit,
					  "and no sooner", &w, amount, now);
			}
			check_storage(&w, now);
			rate_add(&w, amount, now, now);
			record(&r, now, amount);
		}
	}
}

/* No number of units makes a window forget, or fit into it again */
static void
saturation(void)
{
	for (RateKind kind = RATE_GCRA; kind <= RATE_SLIDING; kind++)
	{
		RateState	state = {.kind = kind, .length = 60};
		RateWindow	w = {.kind = kind, .limit = AMOUNT_BOUND - 1, .burst = AMOUNT_BOUND - 1,
						 .length = 60, .state = &state};

		state.limit = kind == RATE_GCRA ? w.limit : 0;
		for (int i = 0; i < RATE_SLOTS; i++)
		{
			rate_take_back(&w, 0, 0, i, i);
			if (kind == RATE_SLIDING)
				state.slots[0] = RATE_MOST - 1;
			else
				state.level = RATE_MOST - 1;
			rate_add(&w, AMOUNT_BOUND - 1, i, i);
			check(kind == RATE_SLIDING ? state.slots[0] == RATE_MOST : state.level == RATE_MOST,
				  "no more than can be counted", &w, 1, i);
			check(rate_room_at(&w, i) == 0 && rate_free_at(&w, 1, i) > i, "full", &w, 1, i);
			check_storage(&w, i);
		}
		/* everything at once, now in the present slot */
		w.kind = kind == RATE_GCRA ? RATE_SLIDING : RATE_GCRA;
		check(rate_used_at(&w, RATE_SLOTS - 1) == RATE_MOST, "no more after a change of kind", &w, 1, 0);
		if (kind == RATE_SLIDING)
		{
			w.kind = kind;
			w.length = 1000000;
			check(rate_used_at(&w, RATE_SLOTS - 1) == RATE_MOST, "no more after a change of length", &w, 1, 0);
		}
	}
}

/* Refunds and holds -------------------------------------------------------------------- */

static void
refund_one(void)
{
	/* alone in its window, nothing is left of what comes back */
	for (int run = 0; run < 20000; run++)
	{
		RateState	state;
		RateWindow	w = random_small_window(run % 2 ? RATE_GCRA : RATE_SLIDING, &state);
		int64_t		start = random_below(100);
		int64_t		now = start + random_below(2 * w.length);
		Amount		amount = 1 + random_below(9);
		Amount		kept = random_below((int64_t) amount);
		RateState	kept_state = {0};
		RateWindow	kept_window = w;

		rate_add(&w, amount, start, start);
		kept_window.state = &kept_state;
		if (kept > 0)
			rate_add(&kept_window, kept, start, start);
		rate_take_back(&w, amount - kept, amount, start, now);
		check(rate_used_at(&w, now) == rate_used_at(&kept_window, now) &&
			  rate_empty_at(&w, now) == rate_empty_at(&kept_window, now),
			  "as if it had never been", &w, amount, now);
		/* at once everything fits again */
		if (now == start)
			check(rate_room_at(&w, now) == amount_max(rate_capacity(&w) - kept, 0),
				  "all of it comes back", &w, amount, now);
		/* a clock that was ahead makes no difference */
		rate_add(&w, 1, now + random_below(1000), now);
		rate_add(&kept_window, 1, now, now);
		check(rate_empty_at(&w, now) == rate_empty_at(&kept_window, now), "added by now", &w, amount, now);
		rate_take_back(&w, 1, 1, now + random_below(1000), now);
		rate_take_back(&kept_window, 1, 1, now, now);
		check(rate_used_at(&w, now) == rate_used_at(&kept_window, now), "taken back by now", &w, amount, now);
		/* and what is older than the window counts no more */
		if (w.kind == RATE_SLIDING)
		{
			int64_t		old = now - random_below(3 * w.length + 200);
			Amount		used = rate_used_at(&w, now);

			rate_add(&w, 1, old, now);
			check(rate_used_at(&w, now) == used + (sliding_free_at(old, w.length) > now ? 1 : 0),
				  "counts if it is in the window", &w, amount, now);
			rate_take_back(&w, 1, 1, old, now);
			if (old >= state.since)
				check(rate_used_at(&w, now) == used, "as before", &w, amount, now);
			else
				rate_take_back(&w, 1, 1, now, now);
			check_storage(&w, now);
		}
	}
}

static void
refund_many(RateKind kind)
{
	for (int run = 0; run < 2000; run++)
	{
		RateState	state;
		RateWindow	w = random_small_window(kind, &state);
		Record		r = {.n = 0};
		int64_t		now = random_below(100) - 50;

		for (int step = 0; step < 80; step++)
		{
			now += random_below(random_below(3) ? 1 + w.length / 8 : 3);
			if (random_below(3) > 0 || r.n == 0)
			{
				Amount		amount = 1 + random_below(3);
				bool		fits = rate_free_at(&w, amount, now) == now;

				if (kind == RATE_SLIDING)
					check(rate_used_at(&w, now) == sliding_used(&r, &w, now), "exact with refunds", &w, amount, now);
				if (fits && kind == RATE_SLIDING)
					check(units_between(&r, (Amount) now - w.length, now) + amount <= w.limit,
						  "no window too full", &w, amount, now);
				else if (fits)
					check(gcra_promise(&r, &w, amount, now), "gcra keeps its promise with refunds", &w, amount, now);
				if (fits)
				{
					rate_add(&w, amount, now, now);
					record(&r, now, amount);
				}
			}
			else
			{
				Entry	   *e = &r.entries[random_below(r.n)];
				Amount		amount = random_below((int64_t) e->amount + 1);
				Amount		used = rate_used_at(&w, now);

				rate_take_back(&w, amount, e->amount, e->at, now);
				e->amount -= amount;
				check(rate_used_at(&w, now) <= used && rate_used_at(&w, now) >= used - amount,
					  "never more than what was taken back", &w, amount, now);
			}
			check_answers(&w, 1, now);
		}
	}
}

/* Units that were held since an earlier time, and so kept from others */
static void
holds(RateKind kind)
{
	for (int run = 0; run < 2000; run++)
	{
		RateState	state;
		RateWindow	w = random_small_window(kind, &state);
		Record		r = {.n = 0};
		Record		held = {.n = 0};
		int64_t		now = random_below(100) - 50;

		for (int step = 0; step < 80; step++)
		{
			Amount		amount = 1 + random_below(3);
			Amount		all_held = units_between(&held, INT64_MIN, INT64_MAX);
			bool		fits;

			now += random_below(random_below(3) ? 1 + w.length / 8 : 3);
			fits = rate_free_at(&w, amount + all_held, now) == now;
			if (held.n > 0 && random_below(3) == 0)
			{
				Entry	   *e = &held.entries[random_below(held.n)];

				/* cancelled or settled */
				if (random_below(3) > 0)
				{
					rate_add(&w, e->amount, e->at, now);
					record(&r, e->at, e->amount);
				}
				*e = held.entries[--held.n];
			}
			else if (fits && random_below(2))
				record(&held, now, amount);
			else if (fits)
			{
				rate_add(&w, amount, now, now);
				record(&r, now, amount);
			}
			if (kind == RATE_SLIDING)
				check(units_between(&r, (Amount) now - w.length, now) <= w.limit, "no window too full", &w, amount, now);
		}
		/* what was settled counts as of when it was held */
		for (int i = 0; i < r.n; i++)
		{
			int64_t		at = r.entries[i].at;
			Amount		span = random_below(3 * w.length);
			Big			most = big_sum(big_product(w.burst, w.length), big_product(w.limit, span));

			if (kind == RATE_SLIDING)
				check(units_between(&r, (Amount) at - w.length, at) <= w.limit, "no window too full", &w, 0, at);
			else
				check(big_compare(big_product(units_between(&r, at - span - 1, at), w.length), most) <= 0,
					  "gcra keeps its promise with holds", &w, 0, at);
		}
	}
}

/* Changes ------------------------------------------------------------------------------ */

/* Between what it would be had the limit always been the one or the other */
static void
change_limit(void)
{
	for (int run = 0; run < 5000; run++)
	{
		RateState	states[3];
		RateWindow	w[3];		/* always old, always new, changed */
		int64_t		now = random_below(100);
		Amount		used[3];

		w[0] = random_small_window(run % 2 ? RATE_GCRA : RATE_SLIDING, &states[0]);
		w[1] = w[2] = w[0];
		w[1].limit = random_below(12);
		w[1].burst = random_below(8);
		if (w[0].kind == RATE_GCRA && random_below(2))
			w[1].length = 1 + random_below(200);
		memset(states, 0, sizeof(states));
		for (int i = 0; i < 3; i++)
			w[i].state = &states[i];

		for (int step = 0; step < 20; step++)
		{
			Amount		amount = 1 + random_below(4);

			now += random_below(1 + w[0].length / 3);
			if (step == 10)
			{
				w[2] = w[1];
				w[2].state = &states[2];
			}
			for (int i = 0; i < 3; i++)
				used[i] = rate_used_at(&w[i], now);
			/* the change may round up once */
			check(used[2] >= amount_min(used[0], used[1]) && used[2] <= amount_max(used[0], used[1]) + 1,
				  "between the old and the new", &w[2], amount, now);
			check_answers(&w[2], amount, now);
			if (rate_free_at(&w[2], amount, now) == now)
				for (int i = 0; i < 3; i++)
					rate_add(&w[i], amount, now, now);
		}
	}
}

/*
 * The bucket of a rate that changes often; a long double is exact enough here.
 * What it really holds is what it would hold had it never seen the units that
 * were given back.
 */
static void
change_rate(void)
{
	for (int run = 0; run < 5000; run++)
	{
		RateState	state;
		RateWindow	w = random_small_window(RATE_GCRA, &state);
		Record		r = {.n = 0};
		long double drained[MAX_ENTRIES];	/* before each entry */
		int64_t		now = 0;
		bool		refunds = run % 2;
		int			changes = 0;

		for (int step = 0; step < 40; step++)
		{
			int64_t		wait = random_below(refunds ? 20 : 50);
			Amount		amount = 1 + random_below(4);
			Amount		added = 0;
			long double level = 0;
			Amount		used;

			if (random_below(4) == 0)
			{
				w.limit = random_below(12);
				w.burst = random_below(8);
				w.length = 1 + random_below(200);
				changes++;
			}
			now += wait;
			drained[r.n] = (long double) w.limit * wait / w.length;
			for (int i = 0; i < r.n; i++)
			{
				level = level > drained[i] ? level - drained[i] : 0;
				level += r.entries[i].amount;
			}
			level = level > drained[r.n] ? level - drained[r.n] : 0;

			used = rate_used_at(&w, now);
			check(used > level - 1e-9L, "at least what is in the bucket", &w, amount, now);
			if (!refunds)
				check(used < level + 1 + changes, "the rate since the last use", &w, amount, now);
			check_answers(&w, amount, now);
			if (refunds && r.n > 0 && random_below(3) == 0)
			{
				Entry	   *e = &r.entries[random_below(r.n)];
				Amount		back = random_below((int64_t) e->amount + 1);

				rate_take_back(&w, back, e->amount, e->at, now);
				e->amount -= back;
			}
			else if (rate_free_at(&w, amount, now) == now)
			{
				check(level + amount < w.burst + 1e-9L, "within the new burst", &w, amount, now);
				rate_add(&w, amount, now, now);
				added = amount;
			}
			else
				rate_take_back(&w, 0, 0, now, now);
			record(&r, now, added);
		}
	}
}

/* No window is too full of what a length has counted since */
static void
change_length(void)
{
	for (int run = 0; run < 5000; run++)
	{
		RateState	state;
		RateWindow	w = random_small_window(RATE_SLIDING, &state);
		Record		r = {.n = 0};
		int64_t		now = random_below(1000) - 500;
		int64_t		longest = 0;
		int			changes = 0;

		for (int step = 0; step < 80; step++)
		{
			Amount		amount = 1 + random_below(4);

			now += random_below(1 + w.length / 8);
			if (random_below(8) == 0)
			{
				w.limit = random_below(12);
				w.length = 1 + random_below(200);
				changes++;
			}
			if (longest < w.length)
				longest = w.length;
			check_answers(&w, amount, now);
			if (r.n > 0 && random_below(5) == 0)
			{
				Entry	   *e = &r.entries[random_below(r.n)];
				Amount		back = random_below((int64_t) e->amount + 1);

				rate_take_back(&w, back, e->amount, e->at, now);
				e->amount -= back;
			}
			else if (rate_free_at(&w, amount, now) == now)
			{
				Amount		sum = amount;

				for (int i = 0; i < r.n; i++)
					if (r.entries[i].at > now - amount_min(r.entries[i].known, w.length))
						sum += r.entries[i].amount;
				check(sum <= w.limit, "no window too full after a change", &w, amount, now);
				rate_add(&w, amount, now, now);
				record(&r, now, amount);
			}
			else
				continue;
			for (int i = 0; i < r.n; i++)
				r.entries[i].known = amount_min(r.entries[i].known, w.length);
		}
		now += longest + (changes + 1) * (longest / RATE_DIVISIONS + 1);
		check(rate_used_at(&w, now) == 0, "all is free in the end", &w, 0, now);
	}
}

static void
change_kind(void)
{
	for (int run = 0; run < 20000; run++)
	{
		RateState	state;
		RateWindow	w = random_small_window(run % 2 ? RATE_GCRA : RATE_SLIDING, &state);
		RateKind	other = run % 2 ? RATE_SLIDING : RATE_GCRA;
		int64_t		now = 0;
		Amount		used;

		for (int step = 0; step < 10; step++)
		{
			now += random_below(1 + w.length / 8);
			rate_add(&w, 1 + random_below(3), now, now);
		}
		used = rate_used_at(&w, now);
		w.kind = other;
		w.limit = 1 + random_below(12);
		w.length = 1 + random_below(200);
		check(rate_used_at(&w, now) == used, "what was used stays used", &w, used, now);
		check(other == RATE_SLIDING ? rate_empty_at(&w, now) == sliding_free_at(now, w.length) :
			  rate_empty_at(&w, now) == now + (int64_t) ((used * w.length + w.limit - 1) / w.limit),
			  "as if used just then", &w, used, now);
		check_answers(&w, 1, now + random_below(100));

		/* what was used before cannot be told apart from the rest */
		rate_take_back(&w, 2, 2, now - 1, now);
		check(rate_used_at(&w, now) == used, "nothing from before comes back", &w, used, now);
		check(state.kind == other, "the other kind", &w, used, now);
		rate_add(&w, 3, now, now);
		rate_take_back(&w, 3, 3, now, now);
		check(rate_used_at(&w, now) == used, "what came later does", &w, used, now);
		check_storage(&w, now);
	}
}

/* Numbers that rate_store() does not write ------------------------------------------------ */

static void
unsound(void)
{
	static const struct
	{
		const char *what;
		int			n;
		Amount		numbers[8];
		bool		sound;
	}			cases[] = {
		{"nothing", 0, {0}, true},
		{"empty bucket", 4, {AMOUNT_UNIT, 5, 60, 10}, true},
		{"bucket", 6, {AMOUNT_UNIT, 5, 60, 10, 3, 59}, true},
		{"slots", 5, {2 * AMOUNT_UNIT, -5, 60, 10, 3}, true},
		{"no slots", 3, {2 * AMOUNT_UNIT, 5, 60}, true},
		{"limit 0", 3, {AMOUNT_UNIT, 5, 60}, true},
		{"no length", 2, {AMOUNT_UNIT, 5}, false},
		{"length 0", 4, {AMOUNT_UNIT, 5, 0, 10}, false},
		{"length below 0", 4, {AMOUNT_UNIT, 5, -1, 10}, false},
		{"length too large", 4, {AMOUNT_UNIT, 5, ((Amount) 1 << 60) + 1, 10}, false},
		{"kind 0", 4, {0, 5, 60, 10}, false},
		{"kind 3", 4, {3 * AMOUNT_UNIT, 5, 60, 10}, false},
		{"kind 1.5", 4, {AMOUNT_UNIT * 3 / 2, 5, 60, 10}, false},
		{"since later than at", 4, {AMOUNT_UNIT, 101, 60, 10}, false},
		{"since too early", 4, {AMOUNT_UNIT, (Amount) INT64_MIN - 1, 60, 10}, false},
		{"limit below 0", 4, {AMOUNT_UNIT, 5, 60, -1}, false},
		{"limit too large", 4, {AMOUNT_UNIT, 5, 60, AMOUNT_BOUND}, false},
		{"level below 0", 5, {AMOUNT_UNIT, 5, 60, 10, -1}, false},
		{"level too large", 5, {AMOUNT_UNIT, 5, 60, 10, RATE_MOST + 1}, false},
		{"part below 0", 6, {AMOUNT_UNIT, 5, 60, 10, 0, -1}, false},
		{"part of 1", 6, {AMOUNT_UNIT, 5, 60, 10, 0, 60}, false},
		{"bucket of 7 numbers", 7, {AMOUNT_UNIT, 5, 60, 10, 0, 1, 1}, false},
		{"slot below 0", 4, {2 * AMOUNT_UNIT, 5, 60, -1}, false},
		{"slot too large", 5, {2 * AMOUNT_UNIT, 5, 60, 1, RATE_MOST + 1}, false},
	};
	Amount		many[RATE_NUMBERS + 1] = {2 * AMOUNT_UNIT, 5, 60};
	RateState	state;

	for (int i = 0; i < LENGTH(cases); i++)
	{
		bool		sound = rate_load(cases[i].numbers, cases[i].n, 100, &state);

		check(sound == cases[i].sound, cases[i].what, NULL, 0, 0);
		if (!sound)
			check(state.kind == RATE_NONE && state.level == 0 && state.slots[0] == 0, "empty", NULL, 0, 0);
	}
	many[RATE_NUMBERS - 1] = many[RATE_NUMBERS] = 1;
	check(rate_load(many, RATE_NUMBERS, 100, &state), "all slots", NULL, 0, 0);
	check(state.slots[RATE_SLOTS - 1] == 1, "the last slot", NULL, 0, 0);
	check(!rate_load(many, RATE_NUMBERS + 1, 100, &state), "one slot too many", NULL, 0, 0);
}

/* By hand ---------------------------------------------------------------------------------- */

static void
examples(void)
{
	const int64_t second = 1000000;
	const int64_t minute = 60 * second;
	RateState	state = {0};
	RateWindow	w = {.kind = RATE_GCRA, .limit = 60 * AMOUNT_UNIT, .burst = 5 * AMOUNT_UNIT,
					 .length = minute, .state = &state};

	/* one a second, five at once */
	check(rate_room_at(&w, 0) == 5 * AMOUNT_UNIT, "a new bucket has room for the burst", &w, 0, 0);
	rate_add(&w, 5 * AMOUNT_UNIT, 0, 0);
	check(rate_free_at(&w, AMOUNT_UNIT, 0) == second, "one fits after a second", &w, 0, 0);
	check(rate_free_at(&w, 5 * AMOUNT_UNIT, 0) == 5 * second, "all after five", &w, 0, 0);
	check(rate_free_at(&w, 5 * AMOUNT_UNIT + 1, 0) == RATE_NEVER, "never more than the burst", &w, 0, 0);
	check(rate_empty_at(&w, 0) == 5 * second, "empty after five", &w, 0, 0);
	check(rate_room_at(&w, 2500000) == 2500000, "half a second is half a unit", &w, 0, 2500000);

	/* five seconds before and at the end of time */
	check(rate_empty_at(&w, RATE_TIME_BOUND - 1) == RATE_TIME_BOUND - 1, "empty", &w, 0, 0);
	rate_add(&w, 5 * AMOUNT_UNIT, RATE_TIME_BOUND - 5 * second, RATE_TIME_BOUND - 5 * second);
	check(rate_empty_at(&w, RATE_TIME_BOUND - 5 * second) == RATE_NEVER, "too late", &w, 0, 0);
	check(rate_free_at(&w, 5 * AMOUNT_UNIT - 1, RATE_TIME_BOUND - 5 * second) == RATE_TIME_BOUND - 1,
		  "the last microsecond", &w, 0, 0);

	/* seven an hour: a microsecond is two millionths less a bit */
	state = (RateState) {0};
	w.limit = w.burst = 7 * AMOUNT_UNIT;
	w.length = 60 * minute;
	rate_add(&w, 7 * AMOUNT_UNIT, 0, 0);
	check(rate_free_at(&w, AMOUNT_UNIT, 0) == 514285715, "3600 s / 7, rounded up", &w, 0, 0);
	check(rate_room_at(&w, 514285714) == AMOUNT_UNIT - 1, "a microsecond earlier", &w, 0, 0);

	/* ten a minute, slots of a second */
	state = (RateState) {0};
	w = (RateWindow) {.kind = RATE_SLIDING, .limit = 10 * AMOUNT_UNIT, .length = minute, .state = &state};
	rate_add(&w, 4 * AMOUNT_UNIT, 100 * second, 100 * second);
	rate_add(&w, 6 * AMOUNT_UNIT, 130 * second + 500000, 130 * second + 500000);
	check(rate_room_at(&w, 159 * second) == 0, "full", &w, 0, 0);
	check(rate_free_at(&w, 4 * AMOUNT_UNIT, 131 * second) == 161 * second - 1,
		  "the end of the first slot and a minute", &w, 0, 0);
	check(rate_free_at(&w, 5 * AMOUNT_UNIT, 131 * second) == 191 * second - 1,
		  "the end of the second slot and a minute", &w, 0, 0);
	check(rate_empty_at(&w, 131 * second) == 191 * second - 1, "empty with the second slot", &w, 0, 0);
	rate_take_back(&w, 5 * AMOUNT_UNIT, 6 * AMOUNT_UNIT, 130 * second + 500000, 140 * second);
	check(rate_room_at(&w, 140 * second) == 5 * AMOUNT_UNIT, "five came back", &w, 0, 0);
}

int
main(void)
{
	examples();
	promise_gcra();
	promise_sliding();
	exact_gcra();
	exact_overflow();
	exact_sliding();
	saturation();
	refund_one();
	refund_many(RATE_GCRA);
	refund_many(RATE_SLIDING);
	holds(RATE_GCRA);
	holds(RATE_SLIDING);
	change_limit();
	change_rate();
	change_length();
	change_kind();
	unsound();
	printf("%ld passed, %ld failed\n", passed, failed);
	return failed > 0 ? 1 : 0;
}

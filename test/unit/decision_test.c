/*-------------------------------------------------------------------------
 *
 * decision_test.c
 *	  The decision against brute force, without PostgreSQL.
 *
 * Three parts:
 *
 *	small		every state of a small world, compared with an oracle that hands
 *				out quota unit by unit and tries things instead of computing
 *				them
 *	large		random states with amounts up to 10^18, checked by what must
 *				hold whatever the state is
 *	order		bonus_compare() is a total order, and the one that is documented
 *
 * In the small world one unit is one, or a millionth, or a third of one with
 * the rest cut off: nothing may depend on whole numbers.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decision.h"

#define MAX_WINDOWS		3
#define MAX_BONUSES		3
#define NOW				1000
#define MAX_COMPLAINTS	20

static long passed = 0;
static long failed = 0;

static const Amount units[] = {AMOUNT_UNIT, 1, AMOUNT_UNIT / 3};

#define LENGTH(array)	((int) (sizeof(array) / sizeof((array)[0])))

/* Printing -------------------------------------------------------------- */

/* Large amounts come out rounded, which is good enough for a complaint */
static const char *
show(Amount amount)
{
	static char bufs[8][48];
	static int	next = 0;
	char	   *buf = bufs[next++ % LENGTH(bufs)];

	snprintf(buf, sizeof(bufs[0]), "%.6Lf", (long double) amount / AMOUNT_UNIT);
	return buf;
}

static const char *
show_time(int64_t at)
{
	static char bufs[4][24];
	static int	next = 0;
	char	   *buf = bufs[next++ % LENGTH(bufs)];

	if (at == DECISION_NEVER)
		return "never";
	snprintf(buf, sizeof(bufs[0]), "%lld", (long long) at);
	return buf;
}

static void
print_state(const DecisionInput *in, const Decision *d)
{
	printf("  amount %s at %s\n", show(in->amount), show_time(in->now));
	for (int i = 0; i < in->nlimits; i++)
	{
		const WindowState *w = &in->limits[i];

		printf("  window %d%s: limit %s, used %s, held %s, length %s, resets at %s\n", i,
			   i == in->allowance ? " (allowance)" : "", w->unlimited ? "none" : show(w->limit),
			   show(w->used), show(w->held), show_time(w->length), show_time(w->resets_at));
	}
	for (int b = 0; b < in->nbonuses; b++)
		printf("  bonus %d: left %s, taken %s, expires at %s\n", b, show(in->bonuses[b].left),
			   show(in->bonuses[b].take), show_time(in->bonuses[b].expires_at));
	printf("  answer: %s, %s, %s from the allowance, %s from bonuses, retry after %s\n",
		   d->allowed ? "granted" : "denied", decision_reason_name(d->reason),
		   show(d->parts.allowance), show(d->parts.bonus), show_time(d->retry_after));
	printf("  binding before %d, after %d, remaining before %s, after %s\n",
		   d->before.binding, d->after.binding, show(d->before.remaining), show(d->after.remaining));
}

static void
check(bool ok, const char *what, const DecisionInput *in, const Decision *d)
{
	if (ok)
	{
		passed++;
		return;
	}
	if (++failed > MAX_COMPLAINTS)
		return;
	printf("FAILED: %s\n", what);
	if (in)
		print_state(in, d);
}

/* The oracle ------------------------------------------------------------ */

/* The world in whole units: small enough to count on fingers */
typedef struct World
{
	int			nwindows;
	int			allowance;
	bool		unlimited[MAX_WINDOWS];
	int			limit[MAX_WINDOWS];
	int			used[MAX_WINDOWS];
	int			held[MAX_WINDOWS];
	int			length[MAX_WINDOWS];
	int64_t		resets[MAX_WINDOWS];
	int			nbonuses;
	int			left[MAX_BONUSES];
	int64_t		expires[MAX_BONUSES];
} World;

typedef struct Purse
{
	int			allowance;		/* units taken from the allowance */
	int			bonus[MAX_BONUSES]; /* and from each bonus */
} Purse;

/* Is there a unit left for this window, once "charged" were charged to it? */
static bool
has_unit(const World *w, int i, int charged)
{
	return w->unlimited[i] || w->used[i] + w->held[i] + charged + 1 <= w->limit[i];
}

/*
 * Hand out one more unit at time "at": every rate window must have one, then
 * the allowance pays, then the first bonus that has something and is alive.
 */
static bool
hand_out(const World *w, int already, int64_t at, Purse *purse)
{
	for (int i = 0; i < w->nwindows; i++)
		if (i != w->allowance && !has_unit(w, i, already))
			return false;
	if (has_unit(w, w->allowance, purse->allowance))
	{
		purse->allowance++;
		return true;
	}
	for (int b = 0; b < w->nbonuses; b++)
		if (purse->bonus[b] < w->left[b] && at < w->expires[b])
		{
			purse->bonus[b]++;
			return true;
		}
	return false;
}

static bool
oracle_grants(const World *w, int amount, int64_t at, Purse *purse)
{
	memset(purse, 0, sizeof(*purse));
	for (int n = 0; n < amount; n++)
		if (!hand_out(w, n, at, purse))
			return false;
	return true;
}

/* The world with one window only: how that window sees the request */
static World
only_window(const World *w, int i)
{
	World		one = *w;

	one.nwindows = 1;
	one.allowance = 0;
	one.unlimited[0] = w->unlimited[i];
	one.limit[0] = w->limit[i];
	one.used[0] = w->used[i];
	one.held[0] = w->held[i];
	if (i != w->allowance)
		one.nbonuses = 0;
	return one;
}

#define ENDLESS		1000

/* How many units a window alone would still hand out; ENDLESS = no bound */
static int
oracle_room(const World *w, int i)
{
	World		one = only_window(w, i);
	Purse		purse;
	int			n = 0;

	if (w->unlimited[i])
		return ENDLESS;
	while (oracle_grants(&one, n + 1, NOW, &purse))
		n++;
	return n;
}

/* When a window that denies would grant, by itself: at the end of its period, by trying */
static int64_t
oracle_retry(const World *w, int i, int amount)
{
	World		later = only_window(w, i);
	Purse		purse;

	if (w->resets[i] == DECISION_NEVER)
		return DECISION_NEVER;
	/* what is held stays with the period that is over */
	later.used[0] = later.held[0] = 0;
	if (!oracle_grants(&later, amount, w->resets[i], &purse))
		return DECISION_NEVER;
	return w->resets[i] - NOW;
}

/* When the request would be granted if nothing else happened, by trying all times */
static int64_t
oracle_retry_all(const World *w, int amount)
{
	/* whatever happens in the small world happens at one of these */
	static const int64_t times[] = {1400, 1499, 1500, 1501};

	for (int t = 0; t < LENGTH(times); t++)
	{
		World		later = *w;
		Purse		purse;

		for (int i = 0; i < w->nwindows; i++)
			if (times[t] >= w->resets[i])
				later.used[i] = later.held[i] = 0;
		if (oracle_grants(&later, amount, times[t], &purse))
			return times[t] - NOW;
	}
	return DECISION_NEVER;
}

/* Is a the longer window?  The allowance goes before others of its length. */
static bool
oracle_longer(const World *w, int a, int b)
{
	if (w->length[a] == w->length[b])
		return a == w->allowance;
	return w->length[a] > w->length[b];
}

/* The window with the least room; of equals the longest */
static int
oracle_tightest(const World *w)
{
	int			tightest = -1;

	for (int i = 0; i < w->nwindows; i++)
		if (tightest < 0 || oracle_room(w, i) < oracle_room(w, tightest) ||
			(oracle_room(w, i) == oracle_room(w, tightest) && oracle_longer(w, i, tightest)))
			tightest = i;
	return tightest;
}

/* Of the windows that deny, the one that denies for the longest time */
static int
oracle_denying(const World *w, int amount)
{
	int			denying = -1;

	for (int i = 0; i < w->nwindows; i++)
	{
		World		one = only_window(w, i);
		Purse		purse;

		if (oracle_grants(&one, amount, NOW, &purse))
			continue;
		if (denying < 0 || oracle_retry(w, i, amount) > oracle_retry(w, denying, amount) ||
			(oracle_retry(w, i, amount) == oracle_retry(w, denying, amount) && oracle_longer(w, i, denying)))
			denying = i;
	}
	return denying;
}

/* Charge a grant to a world */
static World
charged_world(const World *w, int amount, const Purse *purse)
{
	World		after = *w;

	for (int i = 0; i < w->nwindows; i++)
		after.used[i] += i == w->allowance ? purse->allowance : amount;
	for (int b = 0; b < w->nbonuses; b++)
		after.left[b] -= purse->bonus[b];
	return after;
}

/* The code under test ------------------------------------------------------ */

typedef struct Input
{
	DecisionInput in;
	WindowState windows[MAX_WINDOWS];
	BonusState	bonuses[MAX_BONUSES];
} Input;

static void
make_input(const World *w, int amount, Amount unit, Input *input)
{
	memset(input, 0, sizeof(*input));
	for (int i = 0; i < w->nwindows; i++)
	{
		WindowState *s = &input->windows[i];

		s->unlimited = w->unlimited[i];
		/* whatever is in there must not count if unlimited */
		s->limit = w->unlimited[i] ? (Amount) 0 : w->limit[i] * unit;
		s->used = w->used[i] * unit;
		s->held = w->held[i] * unit;
		s->length = w->length[i];
		s->resets_at = w->resets[i];
	}
	for (int b = 0; b < w->nbonuses; b++)
	{
		input->bonuses[b].left = w->left[b] * unit;
		input->bonuses[b].expires_at = w->expires[b];
		/* left over from an earlier decision */
		input->bonuses[b].take = 77;
	}
	input->in.amount = amount * unit;
	input->in.now = NOW;
	input->in.limits = input->windows;
	input->in.nlimits = w->nwindows;
	input->in.allowance = w->allowance;
	input->in.bonuses = input->bonuses;
	input->in.nbonuses = w->nbonuses;
}

/* Does a report tell the state of this world, with this window binding? */
static void
check_report(const World *w, int binding, Amount unit, const LimitReport *r, const char *what,
			 const DecisionInput *in, const Decision *d)
{
	int			bonus = 0;
	int			room = w->nwindows == 0 ? 0 : oracle_room(w, binding);

	for (int b = 0; b < w->nbonuses; b++)
		bonus += w->left[b];

	check(r->binding == binding, what, in, d);
	check(r->bonus_remaining == bonus * unit, what, in, d);
	if (w->nwindows == 0)
	{
		check(!r->unlimited && r->remaining == 0 && r->used == 0, what, in, d);
		return;
	}
	check(r->unlimited == w->unlimited[binding], what, in, d);
	check(r->used == w->used[binding] * unit, what, in, d);
	if (!r->unlimited)
		check(r->remaining == room * unit, what, in, d);
}

static void
compare(const World *w, int amount, Amount unit)
{
	Input		input;
	const DecisionInput *in = &input.in;
	Decision	d;
	Purse		purse;
	World		after = *w;
	bool		allowed;

	make_input(w, amount, unit, &input);
	memset(&d, 0x55, sizeof(d));
	decide(in, &d);

	if (w->nwindows == 0)
	{
		check(!d.allowed && d.reason == REASON_NOT_IN_PLAN && d.retry_after == DECISION_NEVER &&
			  d.parts.allowance == 0 && d.parts.bonus == 0, "no limit denies", in, &d);
		check_report(w, -1, unit, &d.before, "report without a limit", in, &d);
		return;
	}

	allowed = oracle_grants(w, amount, NOW, &purse);
	check(d.allowed == allowed, "granted or denied", in, &d);
	if (allowed)
	{
		int			bonus = 0;

		after = charged_world(w, amount, &purse);
		for (int b = 0; b < w->nbonuses; b++)
		{
			check(in->bonuses[b].take == purse.bonus[b] * unit, "taken from a bonus", in, &d);
			bonus += purse.bonus[b];
		}
		check(d.parts.allowance == purse.allowance * unit, "taken from the allowance", in, &d);
		check(d.parts.bonus == bonus * unit, "taken from bonuses", in, &d);
		check(d.reason == (bonus > 0 ? REASON_BONUS : REASON_OK), "reason of a grant", in, &d);
		check(d.retry_after == DECISION_NEVER, "a grant needs no retry", in, &d);
		check_report(w, oracle_tightest(w), unit, &d.before, "report before a grant", in, &d);
		check_report(&after, oracle_tightest(&after), unit, &d.after, "report after a grant", in, &d);
	}
	else
	{
		int			denying = oracle_denying(w, amount);

		for (int b = 0; b < w->nbonuses; b++)
			check(in->bonuses[b].take == 0, "a denial takes nothing", in, &d);
		check(d.parts.allowance == 0 && d.parts.bonus == 0, "a denial moves nothing", in, &d);
		check(d.reason == (w->limit[denying] == 0 && d.before.remaining == 0 ? REASON_NOT_IN_PLAN : REASON_QUOTA_EXCEEDED),
			  "reason of a denial", in, &d);
		check(d.retry_after == oracle_retry_all(w, amount), "retry after a denial", in, &d);
		check_report(w, denying, unit, &d.before, "report of a denial", in, &d);
		check_report(w, denying, unit, &d.after, "a denial changes no report", in, &d);
	}
}

/* The small world, all of it ---------------------------------------------------- */

/* limits 0 to 3, or unlimited; the digit 4 stands for that */
static void
set_window(World *w, int i, int limit, int used, int held, int length, int64_t resets)
{
	w->unlimited[i] = (limit == 4);
	w->limit[i] = limit == 4 ? 0 : limit;
	w->used[i] = used;
	w->held[i] = held;
	w->length[i] = length;
	w->resets[i] = resets;
}

static void
for_all_amounts(const World *w, int max_amount, int nunits)
{
	for (int amount = 1; amount <= max_amount; amount++)
		for (int u = 0; u < nunits; u++)
			compare(w, amount, units[u]);
}

/* Call the function for all contents of up to max bonuses; left is 1 to 3 */
static void
for_all_bonuses(World *w, int max, int max_amount, int nunits)
{
	/* alive, alive until just after, until, and until just before the reset at 1500 */
	static const int64_t expiries[] = {DECISION_NEVER, 1501, 1500, 1400};
	int			states = 3 * LENGTH(expiries);

	for (int n = 0; n <= max; n++)
	{
		int			combinations = 1;

		for (int b = 0; b < n; b++)
			combinations *= states;
		w->nbonuses = n;
		for (int c = 0; c < combinations; c++)
		{
			for (int b = 0, rest = c; b < n; b++, rest /= states)
			{
				w->left[b] = rest % 3 + 1;
				w->expires[b] = expiries[rest % states / 3];
			}
			for_all_amounts(w, max_amount, nunits);
		}
	}
}

static void
small_world(void)
{
	static const int64_t resets[] = {DECISION_NEVER, 1500};
	World		w;

	memset(&w, 0, sizeof(w));
	for_all_bonuses(&w, 2, 3, 1);

	/* one window, three bonuses */
	w.nwindows = 1;
	for (int limit = 0; limit <= 4; limit++)
		for (int used = 0; used <= 4; used++)
			for (int held = 0; held <= 1; held++)
				for (int r = 0; r < 2; r++)
				{
					set_window(&w, 0, limit, used, held, 5, resets[r]);
					for_all_bonuses(&w, MAX_BONUSES, 5, limit == 2 ? 3 : 1);
				}

	/* two windows, either of them the allowance, of equal and of other length */
	w.nwindows = 2;
	for (int allowance = 0; allowance < 2; allowance++)
		for (int length = 4; length <= 6; length++)
			for (int r = 0; r < 4; r++)
				for (int a = 0; a < 5 * 4 * 2; a++)
					for (int b = 0; b < 5 * 4 * 2; b++)
					{
						/* the allowance is the longest window */
						if (allowance == 0 ? length > 5 : length < 5)
							continue;
						w.allowance = allowance;
						set_window(&w, 0, a % 5, a / 5 % 4, a / 20, 5, resets[r % 2]);
						/* rate windows reset sooner, at the same time, or later */
						set_window(&w, 1, b % 5, b / 5 % 4, b / 20, length,
								   r / 2 ? DECISION_NEVER : 1500 + (a + b) % 3 - 1);
						for_all_bonuses(&w, 1, 4, 1);
					}

	/* three windows */
	w.nwindows = 3;
	for (int allowance = 0; allowance < 3; allowance++)
		for (int lengths = 0; lengths < 3; lengths++)
			for (int a = 0; a < 5 * 3; a++)
				for (int b = 0; b < 5 * 3; b++)
					for (int c = 0; c < 5 * 3; c++)
					{
						w.allowance = allowance;
						set_window(&w, 0, a % 5, a / 5, 0, 3 + (lengths & 1), 1500);
						set_window(&w, 1, b % 5, b / 5, 0, 3 + (lengths >> 1), 1500 + b % 2);
						set_window(&w, 2, c % 5, c / 5, 0, 3, c % 2 ? 1400 : DECISION_NEVER);
						w.length[allowance] = 5 - (lengths == 2);
						w.nbonuses = a % 2;
						w.left[0] = 2;
						w.expires[0] = DECISION_NEVER;
						for_all_amounts(&w, 4, 1);
					}
}

/* Large random states ---------------------------------------------------------------- */

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

/* Of any size: the number of bits is random, too */
static Amount
random_amount(Amount bound)
{
	Amount		a = ((Amount) (random_bits() >> 1) << 64) | random_bits();
	int			bits = (int) (random_bits() % 90);

	return (a & (((Amount) 1 << bits) - 1)) % bound;
}

static void
large_world(void)
{
	for (int n = 0; n < 200000; n++)
	{
		Input		input;
		Input		less;
		DecisionInput *in = &input.in;
		Decision	d;
		Decision	d_less;
		Amount		held_by_bonuses = 0;
		Amount		taken = 0;
		bool		in_order = true;
		bool		fits = true;

		memset(&input, 0, sizeof(input));
		in->now = NOW;
		in->limits = input.windows;
		in->nlimits = 1 + (int) (random_bits() % MAX_WINDOWS);
		in->bonuses = input.bonuses;
		in->nbonuses = (int) (random_bits() % (MAX_BONUSES + 1));
		in->amount = 1 + random_amount(AMOUNT_BOUND - 1);
		for (int i = 0; i < in->nlimits; i++)
		{
			WindowState *w = &input.windows[i];

			/* what is hard decides; what is soft or shadow only lets pass */
			w->mode = random_bits() % 3 ? MODE_HARD : random_bits() % 2 ? MODE_SOFT : MODE_SHADOW;
			w->unlimited = random_bits() % 5 == 0;
			w->limit = random_amount(AMOUNT_BOUND);
			/* an account may have grown far above any single limit */
			w->used = random_bits() % 2 ? random_amount(AMOUNT_BOUND * 1000) : random_amount(w->limit + 1);
			w->held = random_bits() % 3 ? 0 : random_amount(w->limit + 1);
			w->length = (int64_t) (random_bits() % 4);
			w->resets_at = random_bits() % 2 ? DECISION_NEVER : NOW + (int64_t) (random_bits() % 1000);
			if (w->length > input.windows[in->allowance].length)
				in->allowance = i;
		}
		for (int b = 0; b < in->nbonuses; b++)
		{
			input.bonuses[b].left = 1 + random_amount(AMOUNT_BOUND - 1);
			input.bonuses[b].expires_at = random_bits() % 2 ? DECISION_NEVER : NOW + 1 + (int64_t) (random_bits() % 1000);
			held_by_bonuses += input.bonuses[b].left;
		}
		/* often just at the edge */
		if (random_bits() % 2 && !input.windows[in->allowance].unlimited)
		{
			const WindowState *w = &input.windows[in->allowance];
			Amount		room = amount_max(w->limit - w->used - w->held, 0) + held_by_bonuses;

			in->amount = amount_max(room + (Amount) (random_bits() % 3) - 1, 1);
		}

		decide(in, &d);

		for (int i = 0; i < in->nlimits; i++)
		{
			const WindowState *w = &in->limits[i];
			Amount		free = w->limit - w->used - w->held;

			if (!w->unlimited && w->mode == MODE_HARD &&
				amount_max(free, 0) + (i == in->allowance ? held_by_bonuses : 0) < in->amount)
				fits = false;
		}
		check(d.allowed == fits, "granted just if every window has room", in, &d);

		for (int b = 0; b < in->nbonuses; b++)
		{
			check(in->bonuses[b].take >= 0 && in->bonuses[b].take <= in->bonuses[b].left,
				  "never more than a bonus has", in, &d);
			/* a later bonus is touched only when the earlier ones are used up */
			if (in->bonuses[b].take > 0 && b > 0 && in->bonuses[b - 1].take < in->bonuses[b - 1].left)
				in_order = false;
			taken += in->bonuses[b].take;
		}
		check(in_order, "bonuses in their order", in, &d);
		check(taken == d.parts.bonus, "what is taken is what bonuses pay", in, &d);
		check(d.parts.allowance >= 0 && d.parts.bonus >= 0 && d.parts.overage >= 0 &&
			  parts_total(&d.parts) == (d.allowed ? in->amount : 0), "all or nothing", in, &d);
		check(d.before.remaining >= 0 && d.after.remaining >= 0 &&
			  d.before.bonus_remaining == held_by_bonuses &&
			  d.after.bonus_remaining == held_by_bonuses - taken, "never below zero", in, &d);
		check(d.before.binding >= 0 && d.after.binding >= 0, "a window is told", in, &d);
		check(d.allowed || d.retry_after >= 0, "no retry in the past", in, &d);
		check(d.parts.overage == 0 || (in->limits[in->allowance].mode == MODE_SOFT &&
									   !in->limits[in->allowance].unlimited && taken == held_by_bonuses),
			  "overage is soft, and the last resort", in, &d);
		check(d.parts.cost == 0, "nothing costs without a price", in, &d);
		if (d.allowed && !in->limits[in->allowance].unlimited &&
			in->limits[in->allowance].mode != MODE_SHADOW)
		{
			const WindowState *w = &in->limits[in->allowance];

			check(d.parts.allowance <= amount_max(w->limit - w->used - w->held, 0),
				  "never more than the allowance has", in, &d);
			check(d.parts.bonus == 0 || d.parts.allowance == amount_max(w->limit - w->used - w->held, 0),
				  "the allowance before bonuses", in, &d);
		}
		if (d.allowed && (in->limits[in->allowance].unlimited ||
						  in->limits[in->allowance].mode == MODE_SHADOW))
			check(d.parts.bonus == 0, "no bonus where nothing denies", in, &d);
		if (d.allowed && !d.after.unlimited && d.before.binding == d.after.binding)
			check(d.after.remaining <= d.before.remaining || d.before.unlimited,
				  "a grant leaves no more", in, &d);

		/* who gets an amount also gets less than that */
		if (d.allowed && in->amount > 1)
		{
			less = input;
			less.in.limits = less.windows;
			less.in.bonuses = less.bonuses;
			less.in.amount = 1 + random_amount(in->amount - 1);
			decide(&less.in, &d_less);
			check(d_less.allowed && d_less.parts.bonus <= d.parts.bonus, "less is granted, too", &less.in, &d_less);
		}
		/* and who does not get it does not get more */
		if (!d.allowed)
		{
			less = input;
			less.in.limits = less.windows;
			less.in.bonuses = less.bonuses;
			less.in.amount = in->amount + 1 + random_amount(AMOUNT_BOUND);
			decide(&less.in, &d_less);
			check(!d_less.allowed, "more is denied, too", &less.in, &d_less);
		}
		/* deciding does not depend on what was decided before */
		less = input;
		less.in.limits = less.windows;
		less.in.bonuses = less.bonuses;
		decide(&less.in, &d_less);
		check(d_less.allowed == d.allowed && d_less.parts.bonus == d.parts.bonus &&
			  memcmp(less.bonuses, input.bonuses, sizeof(input.bonuses)) == 0, "the same again", in, &d);
	}
}

/* The order of bonuses ------------------------------------------------------------------ */

static int
sign(int n)
{
	return (n > 0) - (n < 0);
}

/* The documented order, one sentence at a time */
static int
oracle_order(const BonusState *a, const BonusState *b)
{
	int			ids = 0;

	for (int i = 15; i >= 0; i--)
		if (a->id[i] != b->id[i])
			ids = a->id[i] < b->id[i] ? -1 : 1;
	return a->priority < b->priority ? -1 : a->priority > b->priority ? 1 :
		a->expires_at < b->expires_at ? -1 : a->expires_at > b->expires_at ? 1 :
		!a->paid && b->paid ? -1 : a->paid && !b->paid ? 1 :
		a->granted_at < b->granted_at ? -1 : a->granted_at > b->granted_at ? 1 : ids;
}

static void
order(void)
{
	/* extremes, where a difference would overflow */
	static const int32_t priorities[] = {INT32_MIN, 0, INT32_MAX};
	static const int64_t times[] = {INT64_MIN, 5, INT64_MAX};
	static BonusState all[3 * 3 * 2 * 3 * 3];
	int			n = 0;

	for (int p = 0; p < 3; p++)
		for (int e = 0; e < 3; e++)
			for (int paid = 0; paid < 2; paid++)
				for (int g = 0; g < 3; g++)
					for (int id = 0; id < 3; id++)
					{
						BonusState *b = &all[n++];

						b->priority = priorities[p];
						b->expires_at = times[e];
						b->paid = paid;
						b->granted_at = times[g];
						/* bytes are unsigned, and the first one counts most */
						b->id[0] = (unsigned char) (id == 0 ? 1 : 0x80);
						b->id[15] = (unsigned char) (id == 0 ? 0xFF : id == 1 ? 1 : 2);
					}

	for (int a = 0; a < n; a++)
		for (int b = 0; b < n; b++)
		{
			int			ab = sign(bonus_compare(&all[a], &all[b]));

			check(ab == oracle_order(&all[a], &all[b]), "the documented order", NULL, NULL);
			check(ab == -sign(bonus_compare(&all[b], &all[a])), "turned round it is the opposite", NULL, NULL);
			check((ab == 0) == (a == b), "no two are equal", NULL, NULL);
		}
	/* what is left does not count */
	all[1] = all[0];
	all[1].left = 5;
	check(bonus_compare(&all[0], &all[1]) == 0, "the amount has no part in the order", NULL, NULL);
	for (int i = 0; i < 200000; i++)
	{
		const BonusState *a = &all[random_bits() % (uint64_t) n];
		const BonusState *b = &all[random_bits() % (uint64_t) n];
		const BonusState *c = &all[random_bits() % (uint64_t) n];

		if (bonus_compare(a, b) <= 0 && bonus_compare(b, c) <= 0)
			check(bonus_compare(a, c) <= 0, "transitive", NULL, NULL);
	}
}

static void
reason_names(void)
{
	static const struct
	{
		DecisionReason reason;
		const char *name;
	}			names[] = {
		{REASON_OK, "ok"},
		{REASON_BONUS, "bonus"},
		{REASON_QUOTA_EXCEEDED, "quota_exceeded"},
		{REASON_NOT_IN_PLAN, "not_in_plan"},
		{REASON_IDEMPOTENCY_CONFLICT, "idempotency_conflict"},
	};

	for (int i = 0; i < LENGTH(names); i++)
		check(strcmp(decision_reason_name(names[i].reason), names[i].name) == 0, names[i].name, NULL, NULL);
}

int
main(void)
{
	small_world();
	large_world();
	order();
	reason_names();
	printf("%ld passed, %ld failed\n", passed, failed);
	return failed > 0 ? 1 : 0;
}

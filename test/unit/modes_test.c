/*-------------------------------------------------------------------------
 *
 * modes_test.c
 *	  Hard, soft and shadow limits, prices and caps against brute force.
 *
 * decision_test.c knows hard limits only, in more windows and bonuses.  Here:
 *
 *	small		two windows of any mode, up to two bonuses, prices and caps,
 *				compared with an oracle that hands out unit by unit
 *	random		the same with larger numbers
 *	fractions	random amounts up to 10^18, checked by what must hold
 *	money		what an amount costs, up to where it cannot be told
 *	parts		what of a whole is kept, unit by unit
 *	rates		sliding windows and buckets among the others: what they let
 *				pass, and that no time before the one that is told would do
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decision.h"

#define MAX_WINDOWS		2
#define MAX_BONUSES		2
#define NOW				1000
#define SOON			1400
#define LATER			1500
#define MAX_COMPLAINTS	20
#define ENDLESS			200		/* more than any world here can hand out */
#define NO_CAP			(-1)

#define LENGTH(array)	((int) (sizeof(array) / sizeof((array)[0])))

static long passed = 0;
static long failed = 0;

/* Printing -------------------------------------------------------------- */

static const char *
show(Amount amount)
{
	static char bufs[16][48];
	static int	next = 0;
	char	   *buf = bufs[next++ % LENGTH(bufs)];

	snprintf(buf, sizeof(bufs[0]), "%.6Lf", (long double) amount / AMOUNT_UNIT);
	return buf;
}

static void
print_state(const DecisionInput *in, const Decision *d)
{
	static const char *const modes[] = {"hard", "soft", "shadow"};

	printf("  amount %s at %lld\n", show(in->amount), (long long) in->now);
	for (int i = 0; i < in->nlimits; i++)
	{
		const WindowState *w = &in->limits[i];

		printf("  window %d%s: %s, limit %s, used %s, held %s, length %lld, resets at %lld, price %s, cap %s, cost %s (millionths)\n",
			   i, i == in->allowance ? " (allowance)" : "", modes[w->mode],
			   w->unlimited ? "none" : show(w->limit), show(w->used), show(w->held),
			   (long long) w->length, (long long) w->resets_at, show(w->price),
			   w->capped ? show(w->spend_cap) : "none", show(w->cost));
	}
	for (int b = 0; b < in->nbonuses; b++)
		printf("  bonus %d: left %s, taken %s, expires at %lld\n", b, show(in->bonuses[b].left),
			   show(in->bonuses[b].take), (long long) in->bonuses[b].expires_at);
	if (d == NULL)
		return;
	printf("  answer: %s, %s, %s + %s + %s, cost %s, retry after %lld\n",
		   d->allowed ? "granted" : "denied", decision_reason_name(d->reason),
		   show(d->parts.allowance), show(d->parts.bonus), show(d->parts.overage),
		   show(d->parts.cost), (long long) d->retry_after);
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

/* splitmix64, so that every run and machine tests the same */
static uint64_t seed = 20260310;

static uint64_t
random_bits(void)
{
	uint64_t	z = (seed += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

static int
dice(int sides)
{
	return (int) (random_bits() % (uint64_t) sides);
}

/* Of any size: the number of bits is random, too */
static Amount
random_amount(Amount bound)
{
	Amount		a = ((Amount) (random_bits() >> 1) << 64) | random_bits();
	int			bits = dice(90);

	return (a & (((Amount) 1 << bits) - 1)) % bound;
}

/* The oracle ------------------------------------------------------------ */

typedef struct Window
{
	LimitMode	mode;
	bool		unlimited;
	int			limit;
	int			used;
	int			held;
	int			length;
	int64_t		resets;
	int			price;
	int			cap;			/* or NO_CAP */
	int			cost;
} Window;

typedef struct World
{
	int			nwindows;
	int			allowance;
	Window		windows[MAX_WINDOWS];
	int			nbonuses;
	int			left[MAX_BONUSES];
	int64_t		expires[MAX_BONUSES];
} World;

/* Where units were taken from */
typedef struct Purse
{
	int			units;
	int			allowance;
	int			bonus[MAX_BONUSES];
	int			overage;
	int			cost;
} Purse;

static bool
has_unit(const Window *l, int charged)
{
	return l->unlimited || l->used + l->held + charged + 1 <= l->limit;
}

/* One unit from the first bonus that is alive and has one */
static bool
bonus_unit(const World *w, int64_t at, Purse *purse)
{
	for (int b = 0; b < w->nbonuses; b++)
		if (purse->bonus[b] < w->left[b] && at < w->expires[b])
		{
			purse->bonus[b]++;
			return true;
		}
	return false;
}

/* One unit more, from the allowance, else a bonus, else at its price */
static bool
allowance_unit(const World *w, const Window *l, int64_t at, Purse *purse)
{
	if (has_unit(l, purse->allowance) || l->mode == MODE_SHADOW)
	{
		purse->allowance++;
		return true;
	}
	if (bonus_unit(w, at, purse))
		return true;
	if (l->mode != MODE_SOFT ||
		(l->cap != NO_CAP && l->cost + purse->cost + l->price > l->cap))
		return false;
	purse->overage++;
	purse->cost += l->price;
	return true;
}

static bool
hand_out(const World *w, int64_t at, Purse *purse)
{
	for (int i = 0; i < w->nwindows; i++)
		if (i != w->allowance && w->windows[i].mode == MODE_HARD &&
			!has_unit(&w->windows[i], purse->units))
			return false;
	if (!allowance_unit(w, &w->windows[w->allowance], at, purse))
		return false;
	purse->units++;
	return true;
}

static bool
grants(const World *w, int amount, int64_t at, Purse *purse)
{
	memset(purse, 0, sizeof(*purse));
	while (purse->units < amount)
		if (!hand_out(w, at, purse))
			return false;
	return true;
}

static int
most(const World *w)
{
	Purse		purse = {0};

	while (purse.units < ENDLESS && hand_out(w, NOW, &purse))
		;
	return purse.units;
}

/* The world with one window only, that bonuses extend if it is the allowance */
static World
only_window(const World *w, int i)
{
	World		one = *w;

	one.nwindows = 1;
	one.allowance = 0;
	one.windows[0] = w->windows[i];
	if (i != w->allowance)
	{
		one.nbonuses = 0;
		/* a rate window has no price */
		if (one.windows[0].mode == MODE_SOFT)
			one.windows[0].mode = MODE_SHADOW;
	}
	return one;
}

/* The world as it will be if nothing happens */
static World
world_at(const World *w, int64_t at)
{
	World		later = *w;

	for (int i = 0; i < w->nwindows; i++)
		if (at >= w->windows[i].resets)
			later.windows[i].used = later.windows[i].held = later.windows[i].cost = 0;
	return later;
}

typedef bool (*Test) (const World *w, int i, int amount, int64_t at);

/* Does a window alone let the request pass? */
static bool
admits(const World *w, int i, int amount, int64_t at)
{
	World		one = only_window(w, i);
	Purse		purse;

	return grants(&one, amount, at, &purse);
}

/*
 * Would it, if it were hard?  What a shadow allowance let pass beyond the
 * limit would have come from the bonuses.
 */
static bool
has_room(const World *w, int i, int amount, int64_t at)
{
	World		one = only_window(w, i);
	Window	   *l = &one.windows[0];
	Purse		purse = {0};
	bool		shadow = l->mode == MODE_SHADOW && i == w->allowance;

	l->mode = MODE_HARD;
	for (; shadow && !l->unlimited && l->used + l->held > l->limit; l->used--)
		if (!bonus_unit(&one, at, &purse))
			return false;
	while (purse.units < amount)
		if (!hand_out(&one, at, &purse))
			return false;
	return true;
}

static int
room(const World *w, int i)
{
	World		one = only_window(w, i);

	one.windows[0].mode = MODE_HARD;
	return most(&one);
}

static int64_t
window_retry(const World *w, int i, int amount, Test test)
{
	int64_t		at = w->windows[i].resets;
	World		later;

	if (at == DECISION_NEVER)
		return DECISION_NEVER;
	later = world_at(w, at);
	return test(&later, i, amount, at) ? at - NOW : DECISION_NEVER;
}

/* By trying all times at which something happens */
static int64_t
retry(const World *w, int amount)
{
	static const int64_t times[] = {SOON, SOON + 1, LATER, LATER + 1};

	for (int t = 0; t < LENGTH(times); t++)
	{
		World		later = world_at(w, times[t]);
		Purse		purse;

		if (grants(&later, amount, times[t], &purse))
			return times[t] - NOW;
	}
	return DECISION_NEVER;
}

static bool
longer(const World *w, int a, int b)
{
	if (w->windows[a].length == w->windows[b].length)
		return a == w->allowance;
	return w->windows[a].length > w->windows[b].length;
}

/* Of the windows that fail a test, the one that fails it longest; or -1 */
static int
failing(const World *w, int amount, Test test, bool shadow_only)
{
	int			worst = -1;

	for (int i = 0; i < w->nwindows; i++)
	{
		int64_t		mine = window_retry(w, i, amount, test);
		int64_t		its = worst < 0 ? 0 : window_retry(w, worst, amount, test);

		if ((shadow_only && w->windows[i].mode != MODE_SHADOW) || test(w, i, amount, NOW))
			continue;
		if (worst < 0 || mine > its || (mine == its && longer(w, i, worst)))
			worst = i;
	}
	return worst;
}

/* 0: finite, and denies or has its price; 1: no limit; 2: finite, lets pass */
static int
class_of(const World *w, int i)
{
	const Window *l = &w->windows[i];

	if (l->unlimited)
		return 1;
	if (l->mode == MODE_SHADOW)
		return 2;
	return l->mode == MODE_SOFT && i != w->allowance ? 2 : 0;
}

/* The window that is told: the best class, the least room, the longest */
static int
tightest(const World *w)
{
	int			best = -1;

	for (int i = 0; i < w->nwindows; i++)
	{
		int			a = class_of(w, i);
		int			b = best < 0 ? 9 : class_of(w, best);

		if (a < b || (a == b && room(w, i) < room(w, best)) ||
			(a == b && room(w, i) == room(w, best) && longer(w, i, best)))
			best = i;
	}
	return best;
}

static World
charged(const World *w, const Purse *purse)
{
	World		after = *w;

	for (int i = 0; i < w->nwindows; i++)
		after.windows[i].used += i == w->allowance ? purse->allowance : purse->units;
	after.windows[w->allowance].cost += purse->cost;
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
		const Window *l = &w->windows[i];
		WindowState *s = &input->windows[i];

		s->mode = l->mode;
		s->unlimited = l->unlimited;
		/* whatever is in there must not count if unlimited */
		s->limit = l->unlimited ? (Amount) 0 : l->limit * unit;
		s->used = l->used * unit;
		s->held = l->held * unit;
		s->length = l->length;
		s->resets_at = l->resets;
		s->price = l->price;
		s->capped = l->cap != NO_CAP;
		s->spend_cap = s->capped ? l->cap * unit : 0;
		s->cost = l->cost * unit;
	}
	for (int b = 0; b < w->nbonuses; b++)
	{
		input->bonuses[b].left = w->left[b] * unit;
		input->bonuses[b].expires_at = w->expires[b];
		input->bonuses[b].take = input->bonuses[b].hold = 77;
	}
	input->in.amount = amount * unit;
	input->in.now = NOW;
	input->in.limits = input->windows;
	input->in.nlimits = w->nwindows;
	input->in.allowance = w->allowance;
	input->in.bonuses = input->bonuses;
	input->in.nbonuses = w->nbonuses;
}

static void
check_report(const World *w, int binding, Amount unit, const LimitReport *r, const char *what,
			 const DecisionInput *in, const Decision *d)
{
	const Window *l = &w->windows[binding];
	int			bonus = 0;

	for (int b = 0; b < w->nbonuses; b++)
		bonus += w->left[b];
	check(r->binding == binding && r->unlimited == l->unlimited && r->used == l->used * unit &&
		  r->bonus_remaining == bonus * unit &&
		  (l->unlimited || r->remaining == room(w, binding) * unit), what, in, d);
}

static void
check_grant(const World *w, const Purse *purse, int amount, Amount unit,
			const DecisionInput *in, const Decision *d)
{
	World		after = charged(w, purse);
	int			shadow = failing(w, amount, has_room, true);
	int			bonus = 0;

	for (int b = 0; b < w->nbonuses; b++)
	{
		check(in->bonuses[b].take == purse->bonus[b] * unit && in->bonuses[b].hold == 0,
			  "taken from a bonus", in, d);
		bonus += purse->bonus[b];
	}
	check(d->parts.allowance == purse->allowance * unit && d->parts.bonus == bonus * unit &&
		  d->parts.overage == purse->overage * unit && parts_total(&d->parts) == in->amount,
		  "where units come from", in, d);
	check(d->parts.cost == purse->cost * unit, "cost of the overage", in, d);
	check(d->retry_after == DECISION_NEVER, "a grant needs no retry", in, d);
	check(d->reason == (shadow >= 0 ? REASON_SHADOW : purse->overage > 0 ? REASON_OVERAGE :
						bonus > 0 ? REASON_BONUS : REASON_OK), "reason of a grant", in, d);
	check_report(w, shadow >= 0 ? shadow : tightest(w), unit, &d->before,
				 "report before a grant", in, d);
	check_report(&after, shadow >= 0 ? shadow : tightest(&after), unit, &d->after,
				 "report after a grant", in, d);
}

static void
check_denial(const World *w, int amount, Amount unit, const DecisionInput *in, const Decision *d)
{
	int			denying = failing(w, amount, admits, false);
	const Window *l = &w->windows[denying];

	for (int b = 0; b < w->nbonuses; b++)
		check(in->bonuses[b].take == 0 && in->bonuses[b].hold == 0, "a denial takes nothing", in, d);
	check(parts_total(&d->parts) == 0 && d->parts.cost == 0, "a denial moves nothing", in, d);
	check(d->reason == (l->mode == MODE_SOFT ? REASON_SPEND_CAP :
						l->limit == 0 && room(w, denying) == 0 ? REASON_NOT_IN_PLAN :
						REASON_QUOTA_EXCEEDED), "reason of a denial", in, d);
	check(d->retry_after == retry(w, amount), "retry after a denial", in, d);
	check_report(w, denying, unit, &d->before, "report of a denial", in, d);
	check_report(w, denying, unit, &d->after, "a denial changes no report", in, d);
}

static void
compare(const World *w, int amount, Amount unit)
{
	Input		input;
	Decision	d;
	Purse		purse;
	bool		allowed = grants(w, amount, NOW, &purse);

	make_input(w, amount, unit, &input);
	memset(&d, 0x55, sizeof(d));
	decide(&input.in, &d);
	check(d.allowed == allowed, "granted or denied", &input.in, &d);
	if (allowed)
		check_grant(w, &purse, amount, unit, &input.in, &d);
	else
		check_denial(w, amount, unit, &input.in, &d);
}

/* What does not depend on the amount */
static void
compare_state(const World *w, Amount unit)
{
	Input		input;
	LimitReport r;
	Amount		grantable = -1;
	int			oracle = most(w);
	bool		bounded;

	make_input(w, 1, unit, &input);
	input.in.amount = 0;
	memset(&r, 0x55, sizeof(r));
	decision_report(&input.in, &r);
	check_report(w, tightest(w), unit, &r, "report of the state", &input.in, NULL);

	bounded = decision_grantable(&input.in, &grantable);
	check(bounded == (oracle < ENDLESS), "is there a most that can be granted", &input.in, NULL);
	/* a cap may end within a unit */
	if (bounded && oracle < ENDLESS)
		check(grantable / unit == oracle, "the most that can be granted", &input.in, NULL);
}

/* Small worlds -------------------------------------------------------------- */

static const Amount units[] = {AMOUNT_UNIT, 1, AMOUNT_UNIT / 3};

static void
compare_all(const World *w, int amounts, int nunits)
{
	for (int u = 0; u < nunits; u++)
	{
		for (int amount = 1; amount <= amounts; amount++)
			compare(w, amount, units[u]);
		compare_state(w, units[u]);
	}
}

/* none; one of 1 or 2, for ever or until LATER; two */
static const struct
{
	int			n;
	int			left[MAX_BONUSES];
	int64_t		expires[MAX_BONUSES];
}			purses[] = {
	{0, {0, 0}, {0, 0}},
	{1, {1, 0}, {DECISION_NEVER, 0}},
	{1, {2, 0}, {LATER, 0}},
	{2, {1, 1}, {LATER, DECISION_NEVER}},
	{2, {1, 2}, {SOON, LATER + 1}},
};

static void
set_bonuses(World *w, int p)
{
	w->nbonuses = purses[p].n;
	memcpy(w->left, purses[p].left, sizeof(w->left));
	memcpy(w->expires, purses[p].expires, sizeof(w->expires));
}

/* Limits 0 to 2 or none, used 0 to 2, held 0 or 1 */
#define WINDOW_STATES	(3 * 4 * 3 * 2)

static void
set_window(Window *l, int state, int length, int64_t resets)
{
	memset(l, 0, sizeof(*l));
	l->mode = (LimitMode) (state % 3);
	l->unlimited = state / 3 % 4 == 3;
	l->limit = l->unlimited ? 0 : state / 3 % 4;
	l->used = state / 12 % 3;
	l->held = state / 36;
	l->length = length;
	l->resets = resets;
	l->cap = NO_CAP;
}

/* Prices 0 to 2, no cap, or one of 0, 1 or 3, of which 0 to 2 are spent */
#define MONEY_STATES	(3 * 4 * 3)

static void
set_money(Window *l, int state)
{
	static const int caps[] = {NO_CAP, 0, 1, 3};

	l->price = state % 3;
	l->cap = caps[state / 3 % 4];
	l->cost = state / 12;
}

static void
small_worlds(void)
{
	static const int64_t resets[] = {DECISION_NEVER, LATER};
	World		w;

	memset(&w, 0, sizeof(w));
	w.nwindows = 1;
	for (int r = 0; r < 2; r++)
		for (int a = 0; a < WINDOW_STATES; a++)
			for (int m = 0; m < MONEY_STATES; m++)
				for (int p = 0; p < LENGTH(purses); p++)
				{
					set_window(&w.windows[0], a, 5, resets[r]);
					set_money(&w.windows[0], m);
					set_bonuses(&w, p);
					compare_all(&w, 6, LENGTH(units));
				}

	/* either is the allowance; the other is shorter, or as long */
	w.nwindows = 2;
	for (int a = 0; a < WINDOW_STATES; a++)
		for (int b = 0; b < WINDOW_STATES; b++)
			for (int t = 0; t < 4; t++)
			{
				/* prices matter where the limit is soft */
				int			step = a % 3 == MODE_SOFT ? 2 : MONEY_STATES;

				w.allowance = (a + b) % 2;
				set_window(&w.windows[w.allowance], a, 5, resets[t % 2]);
				set_window(&w.windows[1 - w.allowance], b, 4 + (a + b + t) % 2,
						   t / 2 ? LATER : SOON);
				if (t == 3)
					w.windows[1 - w.allowance].resets = DECISION_NEVER;
				for (int m = (a + b) % step; m < MONEY_STATES; m += step)
				{
					set_money(&w.windows[w.allowance], m);
					for (int p = (a + b + m) % 2; p < LENGTH(purses); p += 2)
					{
						set_bonuses(&w, p);
						compare_all(&w, 4, 1);
					}
				}
			}
}

/* Larger numbers, still unit by unit */
static void
random_worlds(void)
{
	static const int64_t times[] = {SOON, LATER, DECISION_NEVER};

	for (int n = 0; n < 60000; n++)
	{
		World		w;
		int			size = 1 + dice(12);

		memset(&w, 0, sizeof(w));
		w.nwindows = 1 + dice(MAX_WINDOWS);
		w.allowance = dice(w.nwindows);
		w.nbonuses = dice(MAX_BONUSES + 1);
		for (int i = 0; i < w.nwindows; i++)
		{
			Window	   *l = &w.windows[i];

			set_window(l, dice(3) + (dice(6) == 0 ? 9 : 0), 3, times[dice(LENGTH(times))]);
			l->limit = l->unlimited ? 0 : dice(size + 1);
			l->used = dice(2 * size);
			l->held = dice(4) ? 0 : dice(size);
			l->length = i == w.allowance ? 3 : 1 + dice(3);
			l->price = dice(8);
			l->cap = dice(3) ? dice(5 * size) : NO_CAP;
			l->cost = dice(2) ? 0 : dice(6 * size);
		}
		for (int b = 0; b < w.nbonuses; b++)
		{
			w.left[b] = 1 + dice(size);
			w.expires[b] = times[dice(LENGTH(times))];
		}
		compare(&w, 1 + dice(4 * size), units[dice(LENGTH(units))]);
		compare(&w, 1 + dice(size), 1 + random_amount(AMOUNT_UNIT * 1000));
		compare_state(&w, units[dice(LENGTH(units))]);
	}
}

/* Fractions, as large as they get ------------------------------------------- */

static void
random_input(Input *input)
{
	DecisionInput *in = &input->in;

	memset(input, 0, sizeof(*input));
	in->now = NOW;
	in->limits = input->windows;
	in->nlimits = 1 + dice(MAX_WINDOWS);
	in->allowance = dice(in->nlimits);
	in->bonuses = input->bonuses;
	in->nbonuses = dice(MAX_BONUSES + 1);
	in->amount = 1 + random_amount(AMOUNT_BOUND - 1);
	for (int i = 0; i < in->nlimits; i++)
	{
		WindowState *l = &input->windows[i];

		l->mode = (LimitMode) dice(3);
		l->unlimited = dice(6) == 0;
		l->limit = random_amount(AMOUNT_BOUND);
		l->used = dice(2) ? random_amount(AMOUNT_BOUND * 1000) : random_amount(l->limit + 1);
		l->held = dice(3) ? 0 : random_amount(l->limit + 1);
		l->length = i == in->allowance ? 3 : 1 + dice(3);
		l->resets_at = dice(2) ? DECISION_NEVER : NOW + 1 + dice(1000);
		l->price = dice(4) ? random_amount(PRICE_BOUND) : 0;
		l->capped = dice(2);
		l->spend_cap = random_amount(MONEY_OVERFLOW);
		l->cost = dice(2) ? 0 : random_amount(MONEY_OVERFLOW / 4);
	}
	for (int b = 0; b < in->nbonuses; b++)
	{
		input->bonuses[b].left = 1 + random_amount(AMOUNT_BOUND - 1);
		input->bonuses[b].expires_at = dice(2) ? DECISION_NEVER : NOW + 1 + dice(1000);
	}
}

/* A window's cost and room never decide more than they should */
static void
check_money(const DecisionInput *in, const Decision *d)
{
	const WindowState *l = &in->limits[in->allowance];

	check(d->parts.allowance >= 0 && d->parts.bonus >= 0 && d->parts.overage >= 0 && d->parts.cost >= 0,
		  "no part below zero", in, d);
	check(parts_total(&d->parts) == (d->allowed ? in->amount : 0), "all or nothing", in, d);
	check(d->parts.cost == amount_cost(d->parts.overage, l->price), "cost is overage x price", in, d);
	check(d->parts.overage == 0 || (l->mode == MODE_SOFT && !l->unlimited),
		  "overage on soft limits only", in, d);
	if (d->parts.overage > 0)
	{
		Amount		own = l->limit - l->used - l->held;
		Amount		bonuses = 0;

		for (int b = 0; b < in->nbonuses; b++)
			bonuses += in->bonuses[b].left;
		check(d->parts.allowance == amount_max(own, 0) && d->parts.bonus == bonuses,
			  "overage comes last", in, d);
		check(!l->capped || l->cost + d->parts.cost <= l->spend_cap, "never above the cap", in, d);
		check(d->after.bonus_remaining == 0, "no bonus is left beside overage", in, d);
	}
	if (l->mode == MODE_SHADOW)
		check(d->parts.bonus == 0, "a shadow allowance leaves bonuses alone", in, d);
	if (d->reason == REASON_SPEND_CAP)
		check(l->mode == MODE_SOFT && l->capped && d->before.binding == in->allowance,
			  "a cap denies on the allowance", in, d);
}

static void
fractions(void)
{
	for (int n = 0; n < 200000; n++)
	{
		Input		input;
		Decision	d;
		LimitReport r;
		Amount		grantable = 0;
		bool		bounded;

		random_input(&input);
		bounded = decision_grantable(&input.in, &grantable);
		if (bounded && dice(2))
			input.in.amount = amount_max(grantable + dice(3) - 1, 1);
		decide(&input.in, &d);
		check_money(&input.in, &d);
		decision_report(&input.in, &r);
		check(r.remaining >= 0 && d.after.remaining >= 0 &&
			  r.bonus_remaining == d.after.bonus_remaining + d.parts.bonus, "bonuses add up", &input.in, &d);
		if (d.allowed && d.reason != REASON_SHADOW)
			check(r.bonus_remaining == d.before.bonus_remaining && r.binding == d.before.binding && r.unlimited == d.before.unlimited &&
				  r.remaining == d.before.remaining && r.used == d.before.used, "the report is what a grant tells before", &input.in, &d);
		check(d.allowed == (!bounded || input.in.amount <= grantable),
			  "granted just if it is grantable", &input.in, &d);

		/* to the exact millionth */
		if (!bounded || grantable == 0 || grantable >= AMOUNT_BOUND * 4)
			continue;
		input.in.amount = grantable;
		decide(&input.in, &d);
		check(d.allowed, "the most is granted", &input.in, &d);
		check_money(&input.in, &d);
		input.in.amount = grantable + 1;
		decide(&input.in, &d);
		check(!d.allowed, "a millionth more is denied", &input.in, &d);
	}
}

/* Money ------------------------------------------------------------------- */

static void
money(void)
{
	WindowState l = {.mode = MODE_SOFT, .price = PRICE_BOUND - 1, .resets_at = DECISION_NEVER,
	.capped = true, .spend_cap = MONEY_OVERFLOW - 1, .cost = MONEY_OVERFLOW / 2};
	DecisionInput in = {.amount = AMOUNT_BOUND - 1, .now = NOW, .limits = &l, .nlimits = 1};
	Decision	d;

	check(amount_cost(0, PRICE_BOUND - 1) == 0 && amount_cost(AMOUNT_BOUND - 1, 0) == 0, "nothing costs nothing", NULL, NULL);
	/* 1.5 units at 2.5 are 3.75, in 10^-18 */
	check(amount_cost(AMOUNT_UNIT * 3 / 2, (Price) 2500000000000) == (Money) 375 * 10000000000000000, "1.5 at 2.5", NULL, NULL);
	check(amount_cost(1, 1) == 1, "the smallest cost is exact", NULL, NULL);
	check(amount_cost(AMOUNT_BOUND - 1, PRICE_BOUND - 1) == MONEY_OVERFLOW, "too much to multiply", NULL, NULL);
	for (int n = 0; n < 100000; n++)
	{
		Price		price = 1 + random_amount(PRICE_BOUND - 1);
		Amount		last = MONEY_OVERFLOW / price;
		Amount		a = random_amount(last + 1);

		check(amount_cost(last, price) == last * price, "the last that can be told", NULL, NULL);
		check(amount_cost(last + 1, price) == MONEY_OVERFLOW, "the first that cannot", NULL, NULL);
		check(amount_cost(a, price) + amount_cost(last - a, price) == amount_cost(last, price),
			  "two halves cost as much as the whole", NULL, NULL);
	}

	/* what cannot be told is above every cap, and is told as such without one */
	decide(&in, &d);
	check(!d.allowed && d.reason == REASON_SPEND_CAP, "untold costs meet the cap", &in, &d);
	l.capped = false;
	decide(&in, &d);
	check(d.allowed && d.reason == REASON_OVERAGE && d.parts.cost == MONEY_OVERFLOW, "untold costs are told as such", &in, &d);
}

/* Parts -------------------------------------------------------------------- */

/* Hand out "keep" units of a whole in the order in which they were taken */
static void
keep_by_unit(const int *whole, const int *lines, int nlines, int keep, int *kept, int *kept_lines)
{
	memset(kept, 0, 3 * sizeof(int));
	memset(kept_lines, 0, 3 * sizeof(int));
	for (; keep > 0; keep--)
	{
		if (kept[0] < whole[0])
			kept[0]++;
		else if (kept[1] < whole[1])
		{
			int			i = 0;

			kept[1]++;
			while (i < nlines && kept_lines[i] == lines[i])
				i++;
			if (i < nlines)
				kept_lines[i]++;
		}
		else if (kept[2] < whole[2])
			kept[2]++;
	}
}

static void
compare_kept(const int *whole, const int *lines, int nlines, int keep, int price, Amount unit)
{
	Parts		w = {whole[0] * unit, whole[1] * unit, whole[2] * unit, whole[2] * unit * price};
	Parts		kept;
	Amount		in[3];
	Amount		out[3];
	int			k[3];
	int			kl[3];
	bool		ok = true;

	for (int i = 0; i < nlines; i++)
		in[i] = lines[i] * unit;
	keep_by_unit(whole, lines, nlines, keep, k, kl);
	memset(&kept, 0x55, sizeof(kept));
	parts_keep(&w, in, nlines, keep * unit, &kept, out);
	check(kept.allowance == k[0] * unit && kept.bonus == k[1] * unit && kept.overage == k[2] * unit,
		  "the first units are kept", NULL, NULL);
	check(kept.cost == k[2] * unit * price, "what is kept has its price", NULL, NULL);
	for (int i = 0; i < nlines; i++)
		ok &= out[i] == kl[i] * unit;
	check(ok, "line by line", NULL, NULL);
	/* into the same lines */
	parts_keep(&w, in, nlines, keep * unit, &kept, in);
	check(memcmp(in, out, nlines * sizeof(Amount)) == 0, "in place", NULL, NULL);
	/* the rest and what is kept are the whole */
	{
		Parts		rest = w;

		parts_subtract(&rest, &kept);
		check(rest.allowance >= 0 && rest.bonus >= 0 && rest.overage >= 0 && rest.cost >= 0,
			  "no rest below zero", NULL, NULL);
		parts_add(&rest, &kept);
		check(memcmp(&rest, &w, sizeof(w)) == 0, "and back", NULL, NULL);
	}
}

static void
parts(void)
{
	/* allowance, bonus, overage 0 to 3; lines add up to the bonus, or more */
	for (int s = 0; s < 64; s++)
		for (int l = 0; l < 64; l++)
		{
			int			whole[3] = {s % 4, s / 4 % 4, s / 16};
			int			lines[3] = {l % 4, l / 4 % 4, l / 16};
			int			sum = lines[0] + lines[1] + lines[2];

			if (sum < whole[1])
				continue;
			for (int keep = 0; keep <= whole[0] + whole[1] + whole[2] + 1; keep++)
				for (int price = 0; price < 3; price++)
					compare_kept(whole, lines, 3, keep, price, units[(s + l) % LENGTH(units)]);
		}

	/* where prices were several, a share, rounded down, and all of it in the end */
	for (int n = 0; n < 100000; n++)
	{
		Parts		whole = {.overage = 1 + random_amount(AMOUNT_BOUND), .cost = random_amount(MONEY_OVERFLOW)};
		Amount		keep = random_amount(whole.overage);
		Parts		kept;
		Parts		more;
		Parts		all;

		parts_keep(&whole, NULL, 0, keep, &kept, NULL);
		parts_keep(&whole, NULL, 0, keep + 1, &more, NULL);
		parts_keep(&whole, NULL, 0, whole.overage, &all, NULL);
		check(kept.cost >= 0 && kept.cost <= whole.cost && all.cost == whole.cost, "a share of the cost", NULL, NULL);
		check(more.cost >= kept.cost, "more costs no less", NULL, NULL);
		if (whole.cost < AMOUNT_BOUND && keep < AMOUNT_UNIT * 1000000)
			check(kept.cost == whole.cost * keep / whole.overage, "rounded down", NULL, NULL);
	}
}

/* Windows whose units leave one by one -------------------------------------- */

/* The input as it will be at a time, if nothing happens */
static void
input_at(const Input *now, int64_t at, Input *later)
{
	*later = *now;
	later->in.now = at;
	later->in.limits = later->windows;
	later->in.bonuses = later->bonuses;
	later->in.nbonuses = 0;
	for (int i = 0; i < now->in.nlimits; i++)
	{
		WindowState *l = &later->windows[i];

		if (l->rate)
			l->used = rate_used_at(l->rate, at);
		else if (l->resets_at <= at)
		{
			l->used = l->held = l->cost = 0;
			l->resets_at = DECISION_NEVER;
		}
	}
	for (int b = 0; b < now->in.nbonuses; b++)
		if (now->bonuses[b].expires_at > at)
			later->bonuses[later->in.nbonuses++] = now->bonuses[b];
}

/* A window that has let some units pass since 900 */
static void
random_rate(RateWindow *rate, RateState *state, Amount unit)
{
	memset(state, 0, sizeof(*state));
	rate->kind = dice(2) ? RATE_GCRA : RATE_SLIDING;
	rate->limit = (1 + dice(6)) * unit;
	rate->burst = (1 + dice(6)) * unit;
	rate->length = 60 * (1 + dice(4));
	rate->state = state;
	for (int when = 900 + dice(50); when <= NOW && dice(6); when += dice(40))
		rate_add(rate, (1 + dice(3)) * unit, when, when);
}

static void
random_rates(Input *input, RateWindow *rates, RateState *states, Amount unit)
{
	DecisionInput *in = &input->in;

	memset(input, 0, sizeof(*input));
	in->now = NOW;
	in->limits = input->windows;
	in->nlimits = 1 + dice(MAX_WINDOWS);
	in->allowance = dice(in->nlimits);
	in->bonuses = input->bonuses;
	in->nbonuses = dice(MAX_BONUSES + 1);
	in->amount = (1 + dice(6)) * unit;
	for (int i = 0; i < in->nlimits; i++)
	{
		WindowState *l = &input->windows[i];

		l->mode = dice(2) ? MODE_HARD : (LimitMode) dice(3);
		l->limit = dice(7) * unit;
		l->used = dice(7) * unit;
		l->held = dice(3) ? 0 : dice(3) * unit;
		l->length = i == in->allowance ? 3 : 2;
		l->resets_at = dice(2) ? DECISION_NEVER : NOW + 1 + dice(200);
		if (dice(3) == 0)
			continue;
		random_rate(&rates[i], &states[i], unit);
		l->rate = &rates[i];
		l->limit = rates[i].limit;
		l->used = rate_used_at(l->rate, NOW);
		l->resets_at = rate_empty_at(l->rate, NOW);
	}
	for (int b = 0; b < in->nbonuses; b++)
	{
		input->bonuses[b].left = (1 + dice(3)) * unit;
		input->bonuses[b].expires_at = dice(2) ? DECISION_NEVER : NOW + 1 + dice(300);
	}
}

/* Does a window have room now, bonuses included? */
static Amount
room_now(const DecisionInput *in, int i)
{
	const WindowState *l = &in->limits[i];
	Amount		room = (l->rate ? rate_capacity(l->rate) : l->limit) - l->used - l->held;

	room = amount_max(room, 0);
	for (int b = 0; i == in->allowance && b < in->nbonuses; b++)
		room += in->bonuses[b].left;
	return room;
}

static void
rates(void)
{
	for (int n = 0; n < 4000; n++)
	{
		Input		input;
		Input		later;
		RateWindow	windows[MAX_WINDOWS];
		RateState	states[MAX_WINDOWS];
		Decision	d;
		Decision	then;
		Amount		most_now = 0;
		bool		bounded;
		bool		fits = true;
		int64_t		until;

		random_rates(&input, windows, states, units[dice(LENGTH(units))]);
		for (int i = 0; i < input.in.nlimits; i++)
			fits &= input.windows[i].mode != MODE_HARD || room_now(&input.in, i) >= input.in.amount;
		bounded = decision_grantable(&input.in, &most_now);
		check(fits == (!bounded || most_now >= input.in.amount), "grantable of rates", &input.in, NULL);
		decide(&input.in, &d);
		check(d.allowed == fits, "granted just if every hard window has room", &input.in, &d);
		check(d.before.unlimited || d.reason == REASON_SHADOW ||
			  d.before.remaining == room_now(&input.in, d.before.binding), "what is left", &input.in, &d);
		if (d.allowed)
			continue;

		/* denied until then, at each microsecond, and not a moment longer */
		until = d.retry_after == DECISION_NEVER ? NOW + 2500 : NOW + d.retry_after;
		for (int64_t at = NOW + 1; at < until; at++)
		{
			input_at(&input, at, &later);
			decide(&later.in, &then);
			if (!then.allowed)
				continue;
			check(false, "no time before does", &input.in, &d);
			printf("  granted at %lld\n", (long long) at);
			break;
		}
		passed++;
		if (d.retry_after == DECISION_NEVER)
			continue;
		input_at(&input, until, &later);
		decide(&later.in, &then);
		check(then.allowed, "the time that is told does", &input.in, &d);
	}
}

static void
reason_names(void)
{
	static const char *const names[] = {"ok", "bonus", "overage", "shadow", "quota_exceeded", "spend_cap",
		"not_in_plan", "idempotency_conflict", "reservation_expired", "other_denied"};

	for (int i = 0; i < LENGTH(names); i++)
		check(strcmp(decision_reason_name((DecisionReason) i), names[i]) == 0, names[i], NULL, NULL);
	check(REASON_OTHER_DENIED == LENGTH(names) - 1, "every reason has its name", NULL, NULL);
}

int
main(void)
{
	small_worlds();
	random_worlds();
	fractions();
	money();
	parts();
	rates();
	reason_names();
	printf("%ld passed, %ld failed\n", passed, failed);
	return failed > 0 ? 1 : 0;
}

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
 *
 *-------------------------------------------------------------------------
 */
#include "decision_check.h"

#define SOON			1400
#define LATER			1500
#define ENDLESS			200		/* more than any world here can hand out */
#define NO_CAP			(-1)

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

int
main(void)
{
	small_worlds();
	random_worlds();
	return check_result();
}

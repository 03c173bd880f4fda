/*-------------------------------------------------------------------------
 *
 * parts_test.c
 *	  Where units come from, what they cost, and what is kept of them.
 *
 *	fractions	random amounts up to 10^18 in windows of any mode, checked by
 *				what must hold
 *	money		what an amount costs, up to where it cannot be told
 *	parts		what of a whole is kept, unit by unit
 *	rates		sliding windows and buckets among the others: what they let
 *				pass, and that no time before the one that is told would do
 *
 *-------------------------------------------------------------------------
 */
#include "decision_check.h"

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
	fractions();
	money();
	parts();
	rates();
	reason_names();
	return check_result();
}

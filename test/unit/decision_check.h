/*-------------------------------------------------------------------------
 *
 * decision_check.h
 *	  What the tests of the decision's modes have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DECISION_CHECK_H
#define DECISION_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decision.h"

#define MAX_WINDOWS		2
#define MAX_BONUSES		2
#define NOW				1000
#define MAX_COMPLAINTS	20

#define LENGTH(array)	((int) (sizeof(array) / sizeof((array)[0])))

/* One unit of a small world: nothing may depend on whole numbers */
static const Amount units[] = {AMOUNT_UNIT, 1, AMOUNT_UNIT / 3};

typedef struct Input
{
	DecisionInput in;
	WindowState windows[MAX_WINDOWS];
	BonusState	bonuses[MAX_BONUSES];
} Input;

static long passed = 0;
static long failed = 0;

/* Printing -------------------------------------------------------------- */

static inline const char *
show(Amount amount)
{
	static char bufs[16][48];
	static int	next = 0;
	char	   *buf = bufs[next++ % LENGTH(bufs)];

	snprintf(buf, sizeof(bufs[0]), "%.6Lf", (long double) amount / AMOUNT_UNIT);
	return buf;
}

static inline void
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

static inline void
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

static inline uint64_t
random_bits(void)
{
	uint64_t	z = (seed += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

static inline int
dice(int sides)
{
	return (int) (random_bits() % (uint64_t) sides);
}

/* Of any size: the number of bits is random, too */
static inline Amount
random_amount(Amount bound)
{
	Amount		a = ((Amount) (random_bits() >> 1) << 64) | random_bits();
	int			bits = dice(90);

	return (a & (((Amount) 1 << bits) - 1)) % bound;
}

static inline int
check_result(void)
{
	printf("%ld passed, %ld failed\n", passed, failed);
	return failed > 0 ? 1 : 0;
}

#endif							/* DECISION_CHECK_H */

/*-------------------------------------------------------------------------
 *
 * due.h
 *	  Bonuses that become due by themselves: rollovers and recurring ones.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_DUE_H
#define QUOTA_DUE_H

#include "charge.h"

extern void due_bonuses(RelationSet *set, Charge *charge, RelationView view);

#endif							/* QUOTA_DUE_H */

export { readPressure, type Pressure } from "./pressure.ts";
export { canWait, nameOf, shapeFor, type PoolShape } from "./shape.ts";
export { WarmPool, type PoolSettings, type PoolState, type PoolSupply } from "./warm-pool.ts";

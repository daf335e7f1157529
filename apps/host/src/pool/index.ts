export { readPressure, type Pressure } from "./pressure.ts";
export { canWait, shapeFor, type PoolShape } from "./shape.ts";
export { WarmPool, type PoolSettings, type PoolSupply } from "./warm-pool.ts";
